"""Knowledge: does what the model knows survive steering?

>>> survived = sl.knowledge(model, {"bipo": bipo, "random": control}, sl.load_questions("mmlu"))
>>> survived.to_frame(); survived.survives(loss=0.02)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from transformer_lens import HookedTransformer

from steerlens.checks.calls import number, one_of
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.forward.steer import Positions
from steerlens.measures.choice import ChoiceForm, multiple_choice
from steerlens.measures.choice_scores import ChoiceScores
from steerlens.pairs.questions import ChoiceQuestions
from steerlens.results.result import Result
from steerlens.vectors.labels import Vectors

PerVector = Float[np.ndarray, "vector multiplier"]


@dataclass(frozen=True, eq=False)
class Knowledge(Result):
    """Accuracy on questions of knowledge over multipliers, and what it lost against the unsteered model."""

    scores: ChoiceScores

    @checked(MeasureError)
    def accuracy(self, *, level: float = 0.95) -> tuple[PerVector, PerVector, PerVector]:
        """The share of questions whose likeliest option is right, (accuracy, low, high), by Clopper and Pearson."""
        return self.scores.mean("accuracy"), *self.scores.interval("accuracy", level=level)

    @checked(MeasureError)
    def change(self, *, level: float = 0.95) -> tuple[PerVector, PerVector, PerVector]:
        """Accuracy less the unsteered model's on the same questions: (change, low, high), by a paired bootstrap."""
        return self.scores.change("accuracy", level=level)

    @checked(MeasureError, loss=number(least=0))
    def survives(self, *, loss: float = 0.02, level: float = 0.95) -> Bool[np.ndarray, "vector multiplier"]:
        """Where the data rule out that accuracy fell by more than `loss` (a share): the change's interval lies above -loss."""
        return self.change(level=level)[1] > -loss

    def to_frame(self) -> pd.DataFrame:
        """One row per vector and multiplier: accuracy and its change from multiplier 0, with intervals, and chance."""
        columns = dict(zip(("accuracy", "low", "high"), self.accuracy(), strict=True))
        columns |= dict(zip(("change", "change_low", "change_high"), self.change(), strict=True))
        n = len(self.scores.multipliers)
        own = {"vector": np.repeat(self.scores.labels, n), "norm": np.repeat(self.scores.norms, n)}
        own |= {"multiplier": np.tile(self.scores.multipliers, len(self.scores.labels))}
        frame = pd.DataFrame(own | {name: array.ravel() for name, array in columns.items()})
        return frame.assign(chance=self.scores.chance("accuracy"), questions=len(self.scores.questions))

    def __repr__(self) -> str:
        rows = [
            f"{r.vector} {r.multiplier:+g}: {r.accuracy:.3f} [{r.low:.3f}, {r.high:.3f}], change {r.change:+.3f} "
            f"[{r.change_low:+.3f}, {r.change_high:+.3f}]"
            for r in self.to_frame().itertuples()
        ]
        seen = f", {self.scores.seen_questions} of them SEEN in training" if self.scores.seen_questions else ""
        asked = f"{len(self.scores.questions)} questions of {self.scores.data}{seen}"
        head = f"Knowledge({asked}, chance {self.scores.chance('accuracy'):.3f})"
        return "\n  ".join([head, *rows])


@checked(MeasureError, form=one_of(ChoiceForm))
def knowledge(
    model: HookedTransformer,
    vectors: Vectors,
    questions: ChoiceQuestions,
    multipliers: Sequence[float] = (-2, -1, 0, 1, 2),
    positions: Positions = "all",
    *,
    form: ChoiceForm = "letters",
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> Knowledge:
    """Does knowledge survive? Accuracy at every multiplier, and its change from the unsteered model on the same questions.

    Args:
        model: any HookedTransformer with the vectors' weights.
        vectors: one, a list, or a dict from names to vectors; put a control among them (`random_vectors`).
        questions: of knowledge, such as MMLU's: `load_questions`.
        multipliers: with 0, the unsteered model, among them.
        positions, form, allow_seen, batch_size: as in `multiple_choice`, which asks every order of the options.

    Raises:
        MeasureError: multiplier 0 is missing, or questions trained or selected a vector.
        VectorError: a vector does not fit the model.

    Source:
        what tables 5 and 11 of arXiv 2406.00045v2 ask of MMLU.
    """
    if 0 not in multipliers:
        raise MeasureError(
            f"multipliers={multipliers!r} hold no 0, the unsteered model: what survives is told against it"
        )
    to = {"form": form, "positions": positions, "allow_seen": allow_seen, "batch_size": batch_size}
    return Knowledge(multiple_choice(model, vectors, questions, multipliers, progress=progress, **to))  # type: ignore[arg-type]
