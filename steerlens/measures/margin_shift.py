"""Margin shift: how far training the weights moves held-out pairs; `preference_shift` for a model in a vector's place."""

import numpy as np
from transformer_lens import HookedTransformer

from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import check_model
from steerlens.measures.effect import PreferenceShift, check_unseen
from steerlens.models.identity import identify
from steerlens.models.tuned import TunedModel
from steerlens.pairs.preference import PreferencePairs


@checked(MeasureError, "tuned")
def margin_shift(
    model: HookedTransformer,
    tuned: TunedModel | HookedTransformer,
    pairs: PreferencePairs,
    *,
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> PreferenceShift:
    """The gain of log p(chosen) - log p(rejected) from one model to another, of every pair, in nats.

    It is what `preference_shift` gives for a vector, at multiplier 1 alone: a change of weights has no other, and so no odd
    and even parts.

    Args:
        model: the model before.
        tuned: the model after: what `train_dpo_lora` returns, or any HookedTransformer with the same tokenizer.
        pairs: held-out pairs, encoded with their own template.
        allow_seen: report on pairs that trained it all the same; the result says so. Of a bare HookedTransformer nobody
            knows what it has seen.
        batch_size: pairs at once.

    Returns:
        A PreferenceShift with multipliers (1,); its norm is NaN, for no vector was added.

    Raises:
        MeasureError: pairs trained the model, it was trained from other weights, or the two models read other tokens.
    """
    after = tuned.model if isinstance(tuned, TunedModel) else check_model(tuned)
    seen = 0
    if isinstance(tuned, TunedModel):
        if not tuned.base.same_weights(identify(check_model(model))):
            raise MeasureError(
                f"the tuned model was trained from {tuned.base.describe()}; this one is {identify(model).describe()}. "
                "Pass the model that train_dpo_lora was given"
            )
        seen = check_unseen([tuned], pairs, allow_seen=allow_seen)  # type: ignore[list-item]  # it reads .seen alone
    encoded, again = pairs.encode(check_model(model)), pairs.encode(after)
    if encoded != again:
        raise MeasureError(
            "the two models have different tokenizers or templates, so their log-probabilities don't compare"
        )
    # After the last block only the unembedding is left: the layer does not matter, and this one is the cheapest.
    before, now = (
        PairScorer(each, encoded, each.cfg.n_layers - 1, batch_size=batch_size, progress=progress).reference.numpy()
        for each in (model, after)
    )
    gain = now - before
    return PreferenceShift(
        label=tuned.method if isinstance(tuned, TunedModel) else after.cfg.model_name,
        norm=float("nan"),
        multipliers=(1.0,),
        chosen=gain[:, :1],
        rejected=gain[:, 1:],
        chosen_tokens=np.array([len(p.chosen) for p in encoded]),
        rejected_tokens=np.array([len(p.rejected) for p in encoded]),
        prompts=pairs.prompts,
        positions="all",
        data=pairs.provenance,
        seen_pairs=seen,
    )
