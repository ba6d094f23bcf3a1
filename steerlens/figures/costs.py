"""What the vectors of a comparison cost, and how strong each is where it costs what the first does."""

from html import escape

from steerlens.comparison.comparison import Comparison
from steerlens.comparison.equal_kl import TOLERANCE, EqualKL
from steerlens.figures.page import Section, named, note, table
from steerlens.figures.side_effects import side_effect_curves
from steerlens.figures.theme import display_name
from steerlens.measures.side_effects import SideEffects


def costs_section(comparison: Comparison, costs: SideEffects) -> Section:
    """Side effects at equal norm, and the multipliers at equal KL."""
    about = (
        "What each vector costs at equal norm: KL(unsteered || steered) on neutral texts in nats per token, and greedy answers' "
        "perplexity under the unsteered model and repetition, beside a random direction of that norm."
    )
    tables = f"<pre>{escape(str(costs))}</pre>"
    if comparison.equal_kl is not None:
        tables = _equal_kl(comparison, comparison.equal_kl) + tables
    return Section("Side effects", note(about), tables, (side_effect_curves(costs),))


def _equal_kl(comparison: Comparison, equal: EqualKL) -> str:
    """How strong each vector is where it costs what the first does."""
    first = display_name(equal.like)
    about = (
        f"{first} at norm {comparison.matched_norm:.3g} costs {equal.target:.3g} nats per token, the mean of both signs, for the "
        f"odd part steers both ways. Each other vector is multiplied until it costs that within {TOLERANCE:.0%}; the interval is "
        "over texts. Where KL hardly grows with the multiplier, a small difference in KL is a large one in norm."
    )
    rows = []
    for label, vector in zip(comparison.labels, comparison.vectors, strict=True):
        match = equal.matches.get(label)
        cells = [f'<span class="settings">not reached: {escape(equal.unreached.get(label, ""))}</span>', "", "", "", ""]
        if label not in equal.unreached:
            times = (comparison.matched_norm or 0.0) / vector.norm if match is None else match.multiplier
            kl = f"{equal.target:.3g}, the target"
            if match is not None:
                low, high = match.interval()
                kl = f"{match.value:.3g} [{low:.3g}, {high:.3g}]" + ("" if match.monotone else ", not monotone")
            signs = (f"{one:.3g}" for one in equal.signs[label])
            cells = [f"{times:.3g}", f"{times * vector.norm:.3g}", kl, *signs]
        rows.append([named(label, comparison.labels), *cells])
    head = ("vector", "times its own length", "norm", "KL, nats per token", "KL of +v", "KL of \N{MINUS SIGN}v")
    return "<h3>Equal KL</h3>" + note(about) + table(head, rows)
