"""`sl.sweep`: methods x layers x seeds, each vector measured on the same pairs; finished cells are kept and read again."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.calls import path, seeds
from steerlens.checks.values import checked_choice, checked_layers, checked_list, refusal, shown
from steerlens.errors import MeasureError
from steerlens.forward.door import KNOWN, checked
from steerlens.forward.parts import is_plain
from steerlens.forward.steer import Positions, check_model
from steerlens.measures.effect import PreferenceShift, Quantity, check_unseen, preference_shift
from steerlens.methods.bipo import train_bipo
from steerlens.methods.caa import extract_caa
from steerlens.methods.pca import extract_pca
from steerlens.methods.supervised import train_supervised
from steerlens.models.identity import identify
from steerlens.models.load import load_model
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.cell_store import Store
from steerlens.results.result import Result
from steerlens.vectors.vector import SteeringVector

MethodName = Literal["bipo", "caa", "pca", "supervised"]
_METHODS: dict[str, Any] = {
    "bipo": train_bipo,
    "caa": extract_caa,
    "pca": extract_pca,
    "supervised": train_supervised,
}
SEEDED = ("bipo", "supervised")
"""methods that draw something; the others give one vector whatever the seed"""


@dataclass(frozen=True, eq=False)
class Sweep(Result):
    """A vector per method, layer and seed, and what each does to the same pairs."""

    methods: Annotated[tuple[str, ...], "cell"]
    """the method of each cell"""
    layers: Annotated[tuple[int, ...], "cell"]
    seeds: Annotated[tuple[int, ...], "cell"]
    shifts: Annotated[tuple[PreferenceShift, ...], "cell"]
    norm_ratios: Annotated[tuple[float, ...], "cell"]
    """each vector's norm over the residual stream's at its layer (NaN for methods that don't measure it)"""

    def to_frame(self) -> pd.DataFrame:
        """One row per method, layer, seed and multiplier: the mean shift in nats with its interval over pairs.

        Beside it log p(chosen) and log p(rejected) in nats, the share of pairs moved the wrong way, and whether both fall.
        """
        rows = []
        for method, layer, seed, shift, ratio in self._cells():
            low, high = shift.interval()
            for i, multiplier in enumerate(shift.multipliers):
                row = {"method": method, "layer": layer, "seed": seed, "norm": shift.norm, "norm_ratio": ratio}
                row |= {"multiplier": multiplier, "shift_nats": shift.mean()[i], "low": low[i], "high": high[i]}
                rows.append(row | _sides(shift, i))
        return pd.DataFrame(rows)

    @checked(MeasureError)
    def scores(self, quantity: Quantity = "odd", multiplier: float = 1.0) -> pd.DataFrame:
        """One row per method, layer and seed: a quantity at one multiplier, its interval over pairs, and what `to_frame` adds."""
        rows = []
        for method, layer, seed, shift, ratio in self._cells():
            columns = shift.columns(quantity)
            if multiplier not in columns:
                raise MeasureError(f"multiplier={multiplier!r} was not measured; {quantity} has {columns}")
            at, (low, high) = columns.index(multiplier), shift.interval(quantity)
            row = {"method": method, "layer": layer, "seed": seed, "norm": shift.norm, "norm_ratio": ratio}
            row |= {quantity: shift.mean(quantity)[at], "low": low[at], "high": high[at]}
            rows.append(row | _sides(shift, shift.multipliers.index(multiplier)))
        return pd.DataFrame(rows)

    @checked(MeasureError)
    def best_layer(self, method: str, quantity: Quantity = "odd", multiplier: float = 1.0) -> int:
        """The layer with the largest mean over seeds; choose by validation pairs, never by those that are reported."""
        scores = self.scores(quantity, multiplier)
        mine = scores[scores["method"] == method]
        if mine.empty:
            raise MeasureError(f"method={shown(method)} was not swept; expected one of {sorted(set(self.methods))}")
        return int(mine.groupby("layer")[quantity].mean().idxmax())

    def __repr__(self) -> str:
        lines = []
        for method, layer, seed, shift, _ in self._cells():
            at = max(range(len(shift.multipliers)), key=lambda i: shift.multipliers[i])
            low, high = shift.interval()
            sides = f"log p(chosen) {shift.mean('chosen')[at]:+.2f}, log p(rejected) {shift.mean('rejected')[at]:+.2f}"
            fall = ", ".join(f"{m:+g}" for m, falls in zip(shift.multipliers, shift.both_fall, strict=True) if falls)
            lines.append(
                f"  {method}, layer {layer}, seed {seed}: at {shift.multipliers[at]:+g} {shift.mean()[at]:+.2f} [{low[at]:+.2f}, "
                f"{high[at]:+.2f}], {sides}; {shift.wrong_way[at]:.0%} of pairs the wrong way"
                + (f"; BOTH FALL at {fall}" if fall else "")
            )
        pairs = f"{len(self.shifts[0].prompts)} pairs of {self.shifts[0].data}" if self.shifts else "no cells"
        return "\n".join([f"Sweep({len(self.shifts)} cells, {pairs}; shift of the margin in nats", *lines]) + ")"

    def _cells(self) -> list[tuple[str, int, int, PreferenceShift, float]]:
        return list(zip(self.methods, self.layers, self.seeds, self.shifts, self.norm_ratios, strict=True))


def _sides(shift: PreferenceShift, column: int) -> dict[str, Any]:
    """What stands beside a margin in a table."""
    return {
        "chosen_nats": shift.mean("chosen")[column],
        "rejected_nats": shift.mean("rejected")[column],
        "wrong_way": shift.wrong_way[column],
        "both_fall": shift.both_fall[column],
    }


@dataclass(frozen=True)
class _Cell:
    """All that one cell's work depends on; goes to a worker as it is."""

    method: str
    layer: int
    seed: int
    options: Mapping[str, Any]
    multipliers: tuple[float, ...]
    positions: Positions
    allow_seen: bool


@checked(
    MeasureError,
    "model",
    "layers",
    "methods",
    "options",
    "executor",
    measure_on=KNOWN["pairs"],
    seeds=seeds,
    store=path,
)
def sweep(
    model: HookedTransformer | str | Path,
    pairs: PreferencePairs,
    measure_on: PreferencePairs,
    layers: Sequence[int],
    *,
    methods: Sequence[MethodName] = ("bipo", "caa"),
    seeds: Sequence[int] = (0,),
    multipliers: Sequence[float] = (-1, 0, 1),
    positions: Positions = "all",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    store: str | Path | None = None,
    executor: Executor | None = None,
    allow_seen: bool = False,
    progress: bool = True,
) -> Sweep:
    """Make a vector by each method at each layer with each seed, and measure its preference shift on the same pairs.

    Args:
        model: a HookedTransformer; or a name or folder for `load_model`, which every worker of an executor loads by itself.
        pairs: to make the vectors of.
        measure_on: to measure on: validation pairs where a layer is chosen by it, test pairs where it is reported.
        layers: 0-based blocks.
        methods: by name; `options` has their keyword arguments, {"bipo": {"lr": 0.02, "max_steps": 60}}.
        seeds: for the methods that draw something; the others have one vector, with seed 0.
        store: a folder for finished cells: a second run does only what is missing, and a changed setting never reads an
            old cell. A vector's cell is kept before it is measured.
        executor: any `concurrent.futures.Executor`, dask's too (`client.get_executor()`); needs a model by name. A process pool
            must start its processes afresh: ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")).

    Raises:
        MeasureError: an unknown method, a list that is empty or names something twice, an executor with a model that is no
            name or with forked processes; before any work. A stored cell is another's.
        ModelError: no layers, one twice, or one that the model does not have; before any work.
    """
    methods, options = _checked_methods(methods, options)
    if executor is not None and not isinstance(executor, Executor):
        raise MeasureError(refusal("executor", executor, "a concurrent.futures.Executor, or None"))
    _check_executor(executor, model)
    live = _loaded(str(model)) if isinstance(model, (str, Path)) else check_model(model)
    if store is not None and (not is_plain(live) or any(callable(p.template) for p in (pairs, measure_on))):
        raise MeasureError(
            "a store finds its cells by their settings, and can't tell one template function, hook or module of your own "
            "from another: sweep with a named template and without hooks, or without store="
        )
    layers = checked_layers(live, layers)
    cells = [
        _Cell(method, layer, seed, options.get(method, {}), tuple(multipliers), positions, allow_seen)
        for method in methods
        for layer in layers
        for seed in (seeds if method in SEEDED else (0,))
    ]
    named = str(model) if isinstance(model, (str, Path)) else live
    work = partial(_run, named, pairs, measure_on, store)
    done = map(work, cells) if executor is None else executor.map(work, cells)
    found = list(tqdm(done, total=len(cells), desc="sweep", unit="cell", disable=not progress))
    return Sweep(
        methods=tuple(cell.method for cell in cells),
        layers=tuple(cell.layer for cell in cells),
        seeds=tuple(cell.seed for cell in cells),
        shifts=tuple(shift for shift, _ in found),
        norm_ratios=tuple(ratio for _, ratio in found),
    )


def _check_executor(executor: Executor | None, model: object) -> None:
    if executor is not None and not isinstance(model, (str, Path)):
        raise MeasureError(
            "an executor's workers each need a model of their own: pass its name or folder instead of the model"
        )
    # A process that is forked while torch's threads hold a lock waits for it for ever.
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise MeasureError(
            "executor= is a pool of forked processes, in which torch hangs for ever: expected one that starts them afresh, "
            'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        )


def _checked_methods(methods: object, options: object) -> tuple[tuple[MethodName, ...], dict[str, dict[str, Any]]]:
    """Methods by name, each once, and keyword arguments of methods that have such."""
    given = checked_list("methods", methods, of="methods, such as ['bipo', 'caa']")
    named = tuple(checked_choice(f"methods[{i}]", m, get_args(MethodName)) for i, m in enumerate(given))
    if len(set(named)) < len(named):
        raise MeasureError(refusal("methods", methods, "each once"))
    if options is not None and not isinstance(options, Mapping):
        raise MeasureError(refusal("options", options, "a dict of dicts, {'bipo': {'lr': 0.02, 'max_steps': 60}}"))
    told: dict[str, dict[str, Any]] = {}
    for method, own in (options or {}).items():
        checked_choice("the method of options", method, get_args(MethodName))
        known = set(signature(_METHODS[method]).parameters) - {"model", "pairs", "layer", "seed", "progress"}
        if not isinstance(own, Mapping) or set(own) - known:
            raise MeasureError(refusal(f"options[{method!r}]", own, f"a dict with some of {sorted(known)}"))
        told[method] = dict(own)
    return named, told


_own = threading.local()
_loading = threading.Lock()


def _loaded(name: str) -> HookedTransformer:
    """The model of that name, once for every thread: hooks of two threads on one model would add up."""
    models = _own.__dict__.setdefault("models", {})
    if name not in models:
        with _loading:  # transformers patches itself while it loads, and two threads at once leave a patch behind
            models[name] = load_model(name)
    return models[name]


def _run(
    model: HookedTransformer | str,
    pairs: PreferencePairs,
    measure_on: PreferencePairs,
    store: str | Path | None,
    cell: _Cell,
) -> tuple[PreferenceShift, float]:
    live = _loaded(model) if isinstance(model, str) else model

    def make() -> SteeringVector:
        seed = {"seed": cell.seed} if cell.method in SEEDED else {}
        return _METHODS[cell.method](live, pairs, cell.layer, **seed, **cell.options, progress=False)

    def measure() -> PreferenceShift:
        return preference_shift(
            live,
            vector,
            measure_on,
            cell.multipliers,
            cell.positions,
            allow_seen=cell.allow_seen,
            progress=False,
        )

    if store is None:
        vector = make()
        return measure(), _ratio(vector)
    kept, name = Store(store), f"{cell.method}-layer{cell.layer}-seed{cell.seed}"
    told = {"method": cell.method, "layer": cell.layer, "seed": cell.seed, "options": _plain(cell.options)}
    told |= {"pairs": pairs.described(), "weights": identify(live).digest, "dtype": str(live.cfg.dtype)}
    vector = kept.vector(name, told, make)
    check_unseen([vector], measure_on, allow_seen=cell.allow_seen)
    asked = {"multipliers": cell.multipliers, "positions": cell.positions, "on": measure_on.described()}
    return kept.result(name, told | asked, measure), _ratio(vector)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are told in a cell's settings: pairs by their digest."""
    return {k: v.described() if isinstance(v, PreferencePairs) else v for k, v in options.items()}


def _ratio(vector: SteeringVector) -> float:
    if not vector.history or not vector.history[-1]["norm"]:
        return float(np.nan)
    last = vector.history[
        -1
    ]  # with patience the vector is an earlier one than the last: only the stream's norm is read here
    return vector.norm * float(last["norm_ratio"]) / float(last["norm"])
