"""KL from the unsteered model on texts: how far a vector moves the next-token distribution where nothing should change."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_count
from steerlens.errors import PairsError
from steerlens.forward.hooked_route import pad_tokens
from steerlens.forward.parts import check_runs_in_parts
from steerlens.forward.readout import logits_at
from steerlens.forward.stream_store import ResidStore
from steerlens.forward.whole_route import needs_whole_passes, whole_pass
from steerlens.measures.activations import encode_material
from steerlens.vectors.shapes import in_float64
from steerlens.vectors.vector import SteeringVector

_AT_ONCE = 4_000_000  # numbers of one tensor of logits held in memory


class TextKL:
    """D(p || q) per token of texts, p the unsteered model's next-token distribution and q the steered one's, in nats.

    The texts go through the model unsteered once; for every vector and multiplier only the blocks above its layer run, and
    never more than a few positions' logits are held. A text stands by itself, behind BOS where the model has one, and is
    steered at every position. The first position is left out: on some models it is a sink that no text depends on.

    Args:
        texts: of two tokens or more each.
        layers: those of the vectors to come.
        batch_size: texts at once.

    Raises:
        MeasureError: no texts, or one too short or too long for the model.
    """

    def __init__(
        self,
        model: HookedTransformer,
        texts: Sequence[str],
        layers: Sequence[int],
        *,
        batch_size: int = 8,
        progress: bool = False,
    ) -> None:
        batch_size = checked_count("batch_size", batch_size, error=PairsError)
        check_runs_in_parts(model)
        self.model, self.batch_size, self.last = model, batch_size, model.cfg.n_layers - 1
        self.tokens = [(*text.prompt, *text.chosen) for text in encode_material(model, texts)]
        lengths = {row: len(ids) for row, ids in enumerate(self.tokens)}
        kept, on_gpu = sorted({*layers, self.last}), str(model.cfg.device).startswith("cuda")
        self.streams = {
            layer: ResidStore(lengths, model.cfg.d_model, model.cfg.dtype, share=1 / len(kept), pin=on_gpu)
            for layer in kept
        }
        with tqdm(total=len(texts), desc="reading texts", unit="text", disable=not progress, leave=False) as bar:
            for rows in self._batches():
                self._read(rows)
                bar.update(len(rows))

    @property
    def positions(self) -> list[int]:
        """How many positions of each text count."""
        return [len(ids) - 1 for ids in self.tokens]

    @torch.no_grad()
    def kl(
        self, vector: SteeringVector, multipliers: Sequence[float], bar: tqdm | None = None
    ) -> Float[np.ndarray, "multiplier text"]:
        """The mean over each text's positions, in nats per token; exactly 0 at multiplier 0."""
        found = np.zeros((len(multipliers), len(self.tokens)))
        steered = [column for column, m in enumerate(multipliers) if m != 0]
        v = vector.tensor.to(self.model.cfg.device)
        for rows in self._batches():
            if steered:
                finals = self._finals(rows, [multipliers[i] * v for i in steered], vector.layer)
                found[np.ix_(steered, rows)] = self._mean_kl(rows, finals)
            if bar is not None:
                bar.update(len(rows) * len(multipliers))
        return found

    def _mean_kl(self, rows: Sequence[int], finals: Sequence[Tensor]) -> Float[np.ndarray, "multiplier row"]:
        """D(p || q) of padded final streams, meaned over the positions of each row."""
        plain, mask = self._padded(rows, self.last)
        mask[:, 0] = 0
        row, place = torch.nonzero(mask, as_tuple=True)
        sums = np.zeros((len(finals), len(rows)))
        for at in torch.arange(len(row), device=row.device).split(max(1, _AT_ONCE // self.model.cfg.d_vocab)):
            log_p = _log_probs(self.model, plain[row[at], place[at]])
            p = log_p.exp()
            own = torch.linalg.vecdot(p, log_p)
            for i, final in enumerate(finals):
                others = torch.linalg.vecdot(p, _log_probs(self.model, final[row[at], place[at]]))
                np.add.at(sums[i], row[at].cpu().numpy(), (own - others).cpu().numpy())
        return sums / np.array([len(self.tokens[i]) - 1 for i in rows])

    def _batches(self) -> Iterator[list[int]]:
        """Rows of similar length, so that little is padding."""
        order = sorted(range(len(self.tokens)), key=lambda row: len(self.tokens[row]))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    @torch.no_grad()
    def _read(self, rows: Sequence[int]) -> None:
        if needs_whole_passes(self.model):
            for row in rows:
                for layer, stream in whole_pass(self.model, self.tokens[row], list(self.streams))[1].items():
                    self.streams[layer].put(row, stream)
            return
        tokens, mask = (t.to(self.model.cfg.device) for t in pad_tokens([self.tokens[row] for row in rows], left=False))
        x, start = None, 0
        for layer, store in self.streams.items():
            # Padding comes last, so no token sees it; the mask says so to models that count positions by it.
            if x is None:
                x = self.model(tokens, attention_mask=mask, stop_at_layer=layer + 1)
            else:
                x = self.model(x, attention_mask=mask, start_at_layer=start, stop_at_layer=layer + 1)
            start = layer + 1
            for i, row in enumerate(rows):
                store.put(row, x[i, : len(self.tokens[row])])

    def _padded(self, rows: Sequence[int], layer: int) -> tuple[Float[Tensor, "row pos d_model"], Tensor]:
        """Streams after a layer, padded on the right, and the mask of what is no padding."""
        kept = [self.streams[layer].get(row) for row in rows]
        x = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
        mask = pad_tokens([self.tokens[row] for row in rows], left=False)[1]
        return x.to(self.model.cfg.device, self.model.cfg.dtype), mask.to(self.model.cfg.device)

    def _finals(
        self, rows: Sequence[int], added: Sequence[Float[Tensor, " d_model"]], layer: int
    ) -> list[Float[Tensor, "row pos d_model"]]:
        """The padded final streams with each vector added after the layer."""
        if needs_whole_passes(self.model):
            by_hand = [[whole_pass(self.model, self.tokens[row], added=v, at=layer)[0] for row in rows] for v in added]
            return [torch.nn.utils.rnn.pad_sequence(finals, batch_first=True) for finals in by_hand]
        below, mask = self._padded(rows, layer)
        steered = [below + v.to(below) for v in added]
        if layer == self.last:
            return steered
        end = self.model.cfg.n_layers
        return [self.model(x, attention_mask=mask, start_at_layer=layer + 1, stop_at_layer=end) for x in steered]


def _log_probs(model: HookedTransformer, resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
    # Normalised in float64, p and q are distributions to 1e-16: what the logits lack enters D(p || q) by its square, and D
    # is never negative. In float32 a small D drowns. (MPS has no float64.)
    logits = logits_at(model, resid)
    return in_float64(logits).log_softmax(-1)
