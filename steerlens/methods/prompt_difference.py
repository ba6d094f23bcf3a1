"""Difference in means between two sets of prompts, read where the response is about to begin.

Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction", arXiv 2406.11717, section 2.3: the mean
over harmful instructions less the mean over harmless ones.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_layer
from steerlens.errors import PairsError
from steerlens.forward.door import checked, prompts_or_pairs
from steerlens.forward.hooked_route import last_token_resid
from steerlens.forward.steer import make_vector
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.encode import Encoder
from steerlens.text.rows import listed
from steerlens.text.templates import Template
from steerlens.vectors.shapes import in_float64
from steerlens.vectors.vector import SteeringVector

Prompts = Sequence[str] | PreferencePairs


@checked(PairsError, prompts=prompts_or_pairs, other_prompts=prompts_or_pairs)
def extract_difference_in_means(
    model: HookedTransformer,
    prompts: Prompts,
    other_prompts: Prompts,
    layer: int,
    *,
    template: Template | None = None,
    system_prompt: str | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> SteeringVector:
    """The mean of resid_post at the last token of some prompts less its mean over others: harmful less harmless, say.

    Args:
        model: any HookedTransformer.
        prompts, other_prompts: texts, not paired: the two may differ in number. Preference pairs stand for their prompts,
            and the vector then remembers that it has seen them, so that no measure reports on them; it cannot know which
            pairs a plain list was taken from.
        layer: the 0-based block, read at `blocks.{layer}.hook_resid_post`.
        template, system_prompt: as in `PreferencePairs`, for both sets. Without a template, that of the pairs with their
            system prompt, and "auto" where both sets are lists.
        batch_size: prompts at once; the vector does not depend on it (up to rounding).

    Returns:
        The vector, in units of the residual stream; means are taken in float64.

    Raises:
        PairsError: a set is empty or holds something other than texts, a prompt is too long for the model (rows listed), or
            two sets of pairs have different templates.

    Source:
        arXiv 2406.11717, section 2.3. Their code reads a block's input, so their layer l is layer l - 1 here; it tries
        every token that the template puts after the instruction and selects token and layer by what ablating and adding the
        direction does. Here it is the last token, and the layer is yours to select, on validation prompts.
    """
    known = [given for given in (prompts, other_prompts) if isinstance(given, PreferencePairs)]
    if template is None:
        formats = {(p.template, p.system_prompt if system_prompt is None else system_prompt) for p in known}
        if len(formats) > 1:
            raise PairsError(f"the two sets have different templates or system prompts, {formats}: pass template=")
        template, system_prompt = formats.pop() if formats else ("auto", system_prompt)
    sets = [given.prompts if isinstance(given, PreferencePairs) else given for given in (prompts, other_prompts)]
    means = [
        prompt_activations(
            model,
            texts,
            layer,
            template=template,
            system_prompt=system_prompt,
            batch_size=batch_size,
            progress=progress,
        ).mean(0)
        for texts in sets
    ]
    settings = {
        "position": "prompt",
        "prompts": len(sets[0]),
        "other_prompts": len(sets[1]),
        "prompts_digest": hashlib.sha256(repr([list(texts) for texts in sets]).encode()).hexdigest()[:16],
        "template": template if isinstance(template, str) else "a function",
        "system_prompt": system_prompt,
    }
    first, second = (*known, None, None)[:2]
    vector = make_vector(
        model,
        means[0] - means[1],
        layer,
        method="difference in means",
        settings=settings,
        pairs=first,
        selected_by=second,  # both sets have been seen
    )
    return vector if known else replace(vector, data="prompts in memory")


def prompt_activations(
    model: HookedTransformer,
    prompts: Sequence[str],
    layer: int,
    *,
    template: Template = "auto",
    system_prompt: str | None = None,
    rows: Sequence[int] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Float[Tensor, "prompt d_model"]:
    """resid_post at each prompt's last token, where the first response token is decided; in float64.

    rows: the prompts' numbers in what they were made from, for errors.
    """
    layer = checked_layer(model, layer)
    encoder = Encoder(model, template, system_prompt)
    tokens = [encoder.generation_prompt(text) for text in prompts]
    numbers = range(len(tokens)) if rows is None else rows
    long = [row for row, ids in zip(numbers, tokens, strict=True) if len(ids) > model.cfg.n_ctx]
    if long:
        raise PairsError(
            f"the prompts of rows {listed(long)} are longer than the model's context of {model.cfg.n_ctx} tokens: shorten "
            "them, or leave them out"
        )
    starts = tqdm(range(0, len(tokens), batch_size), desc="reading prompts", disable=not progress, leave=False)
    found = [last_token_resid(model, tokens[i : i + batch_size], layer, batch_size=batch_size) for i in starts]
    return in_float64(torch.cat(found))
