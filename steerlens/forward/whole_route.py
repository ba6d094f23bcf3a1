"""The plain route: one text at a time through the model's whole forward pass; nothing is shared, cached, packed or padded.

What a hook or somebody else's module does may depend on where a token stands and on what stands beside it. Only a pass over
the whole text is then the model's own, and nothing is taken from one text for another.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.forward.parts import check_runs_in_parts, is_plain, is_readable
from steerlens.forward.readout import logits_at, sum_logprobs
from steerlens.forward.steer import Positions, added_at, reading
from steerlens.text.encode import Encoded


def needs_whole_passes(model: HookedTransformer) -> bool:
    """Whether a text must not be cut, padded or packed: a hook is on, a part is not TransformerLens's, or its kind forbids it."""
    return not is_plain(model) or model.cfg.positional_embedding_type == "shortformer"


def whole_pass(
    model: HookedTransformer,
    tokens: Sequence[int],
    layers: Sequence[int] = (),
    *,
    added: Float[Tensor, " d_model"] | None = None,
    at: int = 0,
    start: int = 0,
) -> tuple[Float[Tensor, "pos d_model"], dict[int, Float[Tensor, "pos d_model"]]]:
    """The residual stream of one text after the last block, and after each of some layers.

    added: to the stream after layer `at`, from position `start` on.
    """
    check_runs_in_parts(model)
    row = torch.tensor([list(tokens)], device=model.cfg.device)

    def change(resid: Tensor) -> Tensor:
        where = torch.arange(resid.shape[1], device=resid.device) >= start
        return resid if added is None else resid + where[:, None] * added.to(resid)

    with nullcontext() if added is None else added_at(model, at, change), reading(model, layers) as found:
        # The mask says that no token is padding: pad may be the end of a turn.
        final = model(row, attention_mask=torch.ones_like(row), stop_at_layer=model.cfg.n_layers)
    return final[0], {layer: resid[0] for layer, resid in found.items()}


def logits_from(
    model: HookedTransformer, final: Float[Tensor, "pos d_model"], first: int
) -> Float[Tensor, "n d_vocab"]:
    """Logits of a text from position `first` on, from its whole stream after the last block."""
    # A final norm or unembedding of somebody else's may look at more than one position.
    if is_readable(model, "ln_final", "unembed"):
        return logits_at(model, final[first:])
    return logits_at(model, final)[first:]


class WholeRoute:
    """Log-probabilities of the responses of pairs, by one forward pass for each response behind its prompt."""

    name = "whole"

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model

    def resid(self, pairs: Sequence[Encoded], layers: Sequence[int]) -> list[list[Float[Tensor, "token d_model"]]]:
        """The residual stream after each layer, one tensor per pair: prompt (as before its first response), then each response."""
        found: list[list[Tensor]] = [[] for _ in layers]
        for pair in pairs:
            passes = [whole_pass(self.model, (*pair.prompt, *side), layers)[1] for side in pair.sides]
            for rows, layer in zip(found, layers, strict=True):
                own = [one[layer][len(pair.prompt) :] for one in passes]
                rows.append(torch.cat([passes[0][layer][: len(pair.prompt)], *own]))
        return found

    def logprobs(
        self,
        pairs: Sequence[Encoded],
        resid: Sequence[Tensor],
        layer: int,
        added: Float[Tensor, "*pair d_model"] | None,
        positions: Positions,
    ) -> Float[Tensor, "pair response"]:
        """The responses' log-probabilities with `added` after the layer, one for all pairs or one for each, in nats.

        resid: not looked at; the texts are run from their tokens on.
        """
        return torch.stack([self._of(pair, i, layer, added, positions) for i, pair in enumerate(pairs)])

    def _of(
        self, pair: Encoded, i: int, layer: int, added: Tensor | None, positions: Positions
    ) -> Float[Tensor, " response"]:
        own = added if added is None or added.ndim == 1 else added[i]
        # The first response token is decided at the last prompt token.
        start, nats = 0 if positions == "all" else len(pair.prompt) - 1, []
        for side in pair.sides:
            final, _ = whole_pass(self.model, (*pair.prompt, *side), added=own, at=layer, start=start)
            token = torch.tensor(side, device=final.device)
            logits = logits_from(self.model, final, len(pair.prompt) - 1)[:-1]
            nats.append(sum_logprobs(logits, token, torch.zeros_like(token), 1)[0])
        return torch.stack(nats)
