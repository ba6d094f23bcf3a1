"""CAA: the mean difference of activations between the two responses.

Rimsky et al. 2023, "Steering Llama 2 via Contrastive Activation Addition", arXiv 2312.06681v4, equation 1. Over free-form
responses, position="mean" or "last", it is the BiPO paper's "Freeform" baseline (arXiv 2406.00045v2, section 4.1).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.checks.calls import one_of
from steerlens.checks.values import checked_layer, checked_list
from steerlens.errors import PairsError, VectorError
from steerlens.forward.door import checked
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import make_vector
from steerlens.methods.prompt_difference import prompt_activations
from steerlens.pairs.lettered import without_letters
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.encode import Encoder, check_differ
from steerlens.vectors.shapes import in_float64
from steerlens.vectors.vector import SteeringVector, check_same_space

ReadPosition = Literal["mean", "last", "answer", "prompt"]


@checked(PairsError, position=one_of(ReadPosition))
def extract_caa(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layer: int,
    *,
    position: ReadPosition = "mean",
    batch_size: int = 8,
    progress: bool = True,
) -> SteeringVector:
    """The mean over pairs of resid_post with the chosen response less resid_post with the rejected one.

    Args:
        model: any HookedTransformer.
        pairs: encoded with their own template.
        layer: the 0-based block, read at `blocks.{layer}.hook_resid_post`.
        position: where it is read. "mean": over the response's content tokens; "last": at its last content token (the
            end of the turn, the same on both sides, is left out of both); "answer": at the letter of an A/B answer, as
            the CAA authors do; "prompt": at the prompt's last token, for pairs whose `rejected_prompts` differ.
        batch_size: pairs at once; the vector does not depend on it (up to rounding).

    Returns:
        The vector, in units of the residual stream; sums are kept in float64.

    Raises:
        PairsError: the pairs have nothing to read at that position, or both sides are the same tokens; the rows are listed.

    Source:
        arXiv 2312.06681v4, equation 1. As its authors do it: pairs of A/B prompts, position="answer" (their code reads the
        token before the closing bracket), `match_norms` over the behaviours, and steering after the prompt: pass
        positions="response" to `steer`, `generate` and the measures.
    """
    differences = caa_differences(model, pairs, layer, position=position, batch_size=batch_size, progress=progress)
    settings = {"position": position, **pairs.described()}
    return make_vector(model, differences.mean(0), layer, method="caa", settings=settings, pairs=pairs)


def caa_differences(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layer: int,
    *,
    position: ReadPosition = "mean",
    batch_size: int = 8,
    progress: bool = False,
) -> Float[Tensor, "pair d_model"]:
    """Each pair's difference of activations, chosen less rejected, in float64; `extract_caa` is their mean."""
    layer = checked_layer(model, layer)
    if position == "prompt":
        return _prompt_differences(model, pairs, layer, batch_size, progress)
    encoded = pairs.encode(model)
    check_differ([pair.sides for pair in encoded], pairs.rows, pairs.provenance, "chosen and rejected")
    where = [pair.read_at(position) for pair in encoded]
    if position == "answer":
        _check_letters(pairs)
    scorer = PairScorer(model, encoded, layer, batch_size=batch_size, progress=progress)
    return torch.stack([_difference(scorer, row, at) for row, at in enumerate(where)])


def _difference(scorer: PairScorer, row: int, at: tuple[slice, slice]) -> Tensor:
    _, chosen, rejected = scorer.parts(row)
    return in_float64(chosen[at[0]]).mean(0) - in_float64(rejected[at[1]]).mean(0)


def _check_letters(pairs: PreferencePairs) -> None:
    bad = [pairs.rows[i] for i in without_letters(pairs.chosen, pairs.rejected)]
    if bad:
        raise PairsError(
            f"position='answer' reads the letter of answers such as '(A)' and '(B)'; {len(bad)} of {len(pairs)} pairs have "
            f"other answers: rows {bad[:12]}. Use position='mean' or 'last' for free-form responses"
        )


def _prompt_differences(
    model: HookedTransformer, pairs: PreferencePairs, layer: int, batch_size: int, progress: bool
) -> Float[Tensor, "pair d_model"]:
    if pairs.rejected_prompts is None:
        raise PairsError(
            "position='prompt' reads the prompt's last token, which comes before either response: with one prompt for both, "
            "the difference is exactly zero. Give the rejected side prompts of its own, "
            "PreferencePairs(..., rejected_prompts=[...]), or use position='mean', 'last' or 'answer'"
        )
    encoder = Encoder(model, pairs.template, pairs.system_prompt)
    prompts = zip(pairs.prompts, pairs.rejected_prompts, strict=True)
    tokens = [(encoder.generation_prompt(one), encoder.generation_prompt(other)) for one, other in prompts]
    check_differ(tokens, pairs.rows, pairs.provenance, "prompts and rejected_prompts")
    sides = [
        prompt_activations(
            model,
            prompts,
            layer,
            template=pairs.template,
            system_prompt=pairs.system_prompt,
            rows=pairs.rows,
            batch_size=batch_size,
            progress=progress,
        )
        for prompts in (pairs.prompts, pairs.rejected_prompts)
    ]
    return sides[0] - sides[1]


def match_norms(vectors: Sequence[SteeringVector]) -> list[SteeringVector]:
    """The vectors of several behaviours at one layer, each scaled to the mean of their norms, as the CAA authors do.

    A multiplier then means as much of one behaviour's vector as of another's.

    Raises:
        VectorError: there are none, they belong to different weights or layers, or one is zero.

    Source:
        arXiv 2312.06681v4; the mean of the norms is what its authors' code scales to (normalize_vectors).
    """
    if isinstance(vectors, SteeringVector):
        raise VectorError(f"got {vectors!r:.80}; expected a list of one vector or more: sl.match_norms([a, b])")
    vectors = checked_list("vectors", vectors, error=VectorError, of="vectors: sl.match_norms([a, b])")
    check_same_space(*vectors)
    layers = sorted({vector.layer for vector in vectors})
    if len(layers) > 1:
        raise VectorError(
            f"the vectors belong after layers {layers}; norms are matched within one layer: one call for each"
        )
    mean = sum(vector.norm for vector in vectors) / len(vectors)
    return [vector.scaled_to(mean) for vector in vectors]
