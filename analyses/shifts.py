"""Preference shifts of many vectors on the same pairs: what lies below the vectors' layer is computed once."""

from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.pair_scores import PairScorer
from steerlens.measures.effect import check_unseen, shift_on
from steerlens.models.identity import identify
from steerlens.vectors.vector import check_fits

MULTIPLIERS = (-1.0, 0.0, 1.0)


class Shifts:
    """`sl.preference_shift` at -1, 0 and 1, with the pairs' lower half and the unsteered model's scores kept."""

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model
        self._scorers: dict[tuple[str, int], PairScorer] = {}

    def __call__(self, vector: sl.SteeringVector, pairs: sl.PreferencePairs) -> sl.PreferenceShift:
        """The shift of pairs that the vector, one of the model's, has not seen."""
        check_fits(vector, identify(self.model))
        check_unseen([vector], pairs, allow_seen=False)
        key = (str(pairs.described()), vector.layer)
        if key not in self._scorers:
            self._scorers[key] = PairScorer(self.model, pairs.encode(self.model), vector.layer)
        return shift_on(self._scorers[key], vector, pairs, MULTIPLIERS, "all")
