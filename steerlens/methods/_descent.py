"""How one vector is optimised: AdamW, warm-up and schedule, clipping, a bound on the norm, stopping, checkpoints.

It knows no loss: a method hands in each step's loss and gradient.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.checks.values import checked_choice, checked_count, checked_number
from steerlens.errors import TrainingError
from steerlens.files import check_size, parse_json, whole_file

Schedule = Literal["cosine", "linear", "constant"]
OPTIONS = (
    "beta",
    "lr",
    "epochs",
    "max_steps",
    "warmup_steps",
    "schedule",
    "schedule_steps",
    "batch_size",
    "max_grad_norm",
    "weight_decay",
    "sign",
    "eval_every",
    "patience",
    "max_norm",
    "checkpoint_every",
    "cache",
)
"""names that settings check when they are made, before any work"""
CHECKPOINT = "steerlens.run/1"
_LARGEST = 500_000_000  # bytes of a checkpoint


@dataclass(frozen=True)
class DescentSettings:
    """Options of the optimisation; units as in `train_bipo`."""

    lr: float
    warmup_steps: int
    schedule: Schedule
    schedule_steps: int | None
    max_grad_norm: float
    weight_decay: float
    max_norm: float | None
    patience: int | None

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("lr", "max_grad_norm", "max_norm", "patience", "schedule_steps"))
        check_numbers(self, from_zero=("warmup_steps", "weight_decay"))
        checked_choice("schedule", self.schedule, get_args(Schedule), error=TrainingError)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of a step: linear warm-up from 0, then the schedule down to 0 where it ends."""
        steps = max(steps, self.schedule_steps or 0)
        # A run shorter than its warm-up would never reach lr.
        warmup = self.warmup_steps if steps > self.warmup_steps else steps // 10
        if step < warmup:
            return self.lr * step / warmup
        done = (step - warmup) / max(1, steps - warmup)
        shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return self.lr * shape[self.schedule]


def check_numbers(settings: Any, *, above_zero: Sequence[str] = (), from_zero: Sequence[str] = ()) -> None:
    """Make the named fields Python's own finite numbers, whole ones where their type says int; TrainingError for others."""
    kinds = {f.name: f.type for f in fields(settings)}
    for name in (*above_zero, *from_zero):
        value = getattr(settings, name)
        if value is None and "None" in str(kinds[name]):
            continue
        if kinds[name] in (int, int | None):
            found: float = checked_count(name, value, error=TrainingError, least=int(name in above_zero))
        elif name in above_zero:
            found = checked_number(name, value, error=TrainingError, above=0)
        else:
            found = checked_number(name, value, error=TrainingError, least=0)
        object.__setattr__(settings, name, found)


def check_trainable(model: torch.nn.Module) -> None:
    """Raise TrainingError where PyTorch could give no gradients: under `torch.inference_mode()`, or with weights made there."""
    if torch.is_inference_mode_enabled():
        raise TrainingError(
            "training needs gradients, and torch.inference_mode() leaves none: call it outside of that block, or inside a "
            "block of torch.inference_mode(False). torch.no_grad() may stay"
        )
    if any(weight.is_inference() for weight in model.parameters()):
        raise TrainingError(
            "the model was loaded inside torch.inference_mode(), and PyTorch takes no gradients through such weights: load it "
            "outside of that block. Everything but training can be done with it as it is"
        )


class Descent:
    """One vector on its way down: `vector`, its AdamW state, and a history row per step."""

    def __init__(
        self, d_model: int, settings: DescentSettings, steps: int, *, scale: float, device: Any, dtype: torch.dtype
    ) -> None:
        self.settings, self.steps, self.scale = settings, steps, scale
        self.vector = torch.zeros(d_model, device=device, dtype=dtype, requires_grad=True)
        self.optimiser = torch.optim.AdamW(
            [self.vector], lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
        )
        self.history: list[dict[str, Any]] = []
        self.good: tuple[Tensor, int] | None = None
        """the last vector whose loss was finite, and the steps that led to it"""
        self.best: tuple[float, Tensor, int] | None = None
        """the best two-sided validation margin, its vector and its step; only with patience"""
        self.waited = 0
        self.snapshots: dict[int, Tensor] = {}
        """the vector after the last step of every epoch"""

    def advance(self, loss: float, gradient: Float[Tensor, " d_model"], *, epoch: int, sign: int) -> None:
        """Take one step and note it; `sign` is 0 where the step had both.

        Raises:
            TrainingError: the loss, the gradient or the new vector is not finite.
        """
        step = len(self.history)
        size = float(gradient.norm())
        if not (math.isfinite(loss) and math.isfinite(size)):
            raise TrainingError(f"step {step}: the loss is {loss} and its gradient's norm {size}")
        self.good = self.vector.detach().clone(), step
        lr = self.settings.lr_at(step, self.steps)
        self.optimiser.param_groups[0]["lr"] = lr
        # As torch's clip_grad_norm_ has it, which the authors' trainer calls.
        self.vector.grad = gradient * min(1.0, self.settings.max_grad_norm / (size + 1e-6))
        self.optimiser.step()
        norm = self._bounded_norm()
        if not math.isfinite(norm):
            raise TrainingError(f"step {step}: the vector's norm is {norm} after it")
        row = {"step": step, "epoch": epoch, "loss": loss, "sign": sign, "lr": lr, "grad_norm": size, "norm": norm}
        self.history.append({**row, "norm_ratio": norm / self.scale, "val_plus": None, "val_minus": None})

    @torch.no_grad()
    def _bounded_norm(self) -> float:
        norm = float(self.vector.norm())
        bound = self.settings.max_norm
        if bound is not None and norm > bound:
            self.vector.mul_(bound / norm)
            return bound
        return norm

    def keep(self) -> None:
        """Keep the current vector among the snapshots."""
        self.snapshots[len(self.history)] = self.vector.detach().clone()

    def evaluated(self, plus: float, minus: float) -> None:
        """Note the validation margins of the current vector, x(+1) and x(-1) in nats."""
        self.history[-1] |= {"val_plus": plus, "val_minus": minus}
        margin = (plus - minus) / 2
        if self.best is None or margin > self.best[0]:
            self.best, self.waited = (margin, self.vector.detach().clone(), len(self.history)), 0
        else:
            self.waited += 1

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the validation margin has stopped rising for `patience` evaluations."""
        out_of_patience = self.settings.patience is not None and self.waited >= self.settings.patience
        return len(self.history) >= self.steps or out_of_patience

    @property
    def chosen(self) -> tuple[Tensor, int]:
        """The vector to keep and the steps that led to it: the last one, or with patience the best one."""
        if self.settings.patience is not None and self.best is not None:
            return self.best[1], self.best[2]
        return self.vector.detach(), len(self.history)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on: tensors, and the rest as JSON."""
        adam = self.optimiser.state.get(self.vector, {})
        tensors = {"vector": self.vector.detach().clone().cpu()}
        tensors |= {f"adamw.{name}": value.detach().clone().cpu() for name, value in adam.items()}
        tensors |= {f"snapshot.{step}": kept.cpu() for step, kept in self.snapshots.items()}
        record: dict[str, Any] = {"history": [dict(row) for row in self.history], "waited": self.waited, "best": None}
        if self.best is not None:
            tensors["best"], record["best"] = self.best[1].cpu(), [self.best[0], self.best[2]]
        return tensors, record

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken.

        Raises:
            TrainingError: it is no such state of this run: the file was changed.
        """
        like = self.vector
        wrong = _wrong_in(tensors, record, like, self.steps)
        if wrong:
            raise TrainingError(f"the checkpoint was changed: {wrong}. Delete it, or give another path")
        with torch.no_grad():
            like.copy_(tensors["vector"])
        adam = {name.removeprefix("adamw."): t for name, t in tensors.items() if name.startswith("adamw.")}
        if adam:
            self.optimiser.state[like] = {
                name: value.clone() if name == "step" else value.to(like.device) for name, value in adam.items()
            }
        self.history, self.waited = [dict(row) for row in record["history"]], record["waited"]
        kept = {name.removeprefix("snapshot."): t for name, t in tensors.items() if name.startswith("snapshot.")}
        self.snapshots = {int(step): kept[step].to(like.device) for step in sorted(kept, key=int)}
        self.good = tensors["vector"].to(like.device), len(self.history)
        if record["best"] is not None:
            self.best = (record["best"][0], tensors["best"].to(like.device), record["best"][1])


_ROW = {
    "step": int,
    "epoch": int,
    "loss": float,
    "sign": int,
    "lr": float,
    "grad_norm": float,
    "norm": float,
    "norm_ratio": float,
}


def _wrong_in(tensors: Mapping[str, Tensor], record: Mapping[str, Any], like: Tensor, steps: int) -> str:
    """What makes a state from a file unfit to go on from; "" where nothing does."""
    history, best = record.get("history"), record.get("best")
    rows = history if isinstance(history, list) else [None]
    taken = len(rows)
    for i, row in enumerate(rows):
        numbers = isinstance(row, dict) and all(_is_number(row.get(name), kind) for name, kind in _ROW.items())
        if (
            not numbers
            or row["step"] != i
            or not all(row.get(n) is None or _is_number(row[n], float) for n in ("val_plus", "val_minus"))
        ):
            return f"step {i} of its history is {row!r:.80}"
    if taken > steps or not _is_number(record.get("waited"), int) or record["waited"] < 0:
        return f"it has {taken} of {steps} steps, and has waited {record.get('waited')!r:.40}"
    fits = best is None or (
        isinstance(best, list) and len(best) == 2 and _is_number(best[0], float) and _is_number(best[1], int)
    )
    if not fits or (best is not None and not 0 < best[1] <= taken):
        return f"its best step is {best!r:.80}"
    names = {
        "vector",
        *(["best"] if best else []),
        *([f"adamw.{n}" for n in ("step", "exp_avg", "exp_avg_sq")] if taken else []),
    }
    kept = set(tensors) - names
    if names - set(tensors) or not kept <= {f"snapshot.{step}" for step in range(1, taken + 1)}:
        return f"it holds {sorted(tensors)!r:.120}"
    for name, tensor in tensors.items():
        shape = () if name == "adamw.step" else tuple(like.shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            return f"{name!r} has shape {tuple(tensor.shape)}, {tensor.dtype}; expected {shape} finite numbers"
    return (
        ""
        if not taken or float(tensors["adamw.step"]) == taken
        else "its optimiser has taken other steps than its history"
    )


def _is_number(value: object, kind: type) -> bool:
    fits = isinstance(value, (int, kind)) and not isinstance(value, bool)
    return fits and math.isfinite(value)  # type: ignore[arg-type]


def write_checkpoint(path: Path, state: tuple[Mapping[str, Tensor], Mapping[str, Any]], run: Mapping[str, Any]) -> None:
    """Write a run's state; the file is always whole: the old one until the new one is complete."""
    tensors, record = state
    text = {"format": CHECKPOINT, "run": json.dumps(run), "record": json.dumps(record)}
    with whole_file(path, TrainingError) as partial:
        partial.write_bytes(save(dict(tensors), text))


def read_checkpoint(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The state of this very run, or None where there is no file yet.

    Raises:
        TrainingError: the file is no checkpoint, or belongs to another run; says what differs.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise TrainingError(f"checkpoint={str(path)!r}: there is no folder {path.parent}")
        return None
    check_size(path, TrainingError, largest=_LARGEST)
    try:
        with safe_open(str(path), "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors and torch raise what damaged bytes lead to
        raise TrainingError(
            f"{path} can't be read as a checkpoint: {error!s:.200}. Delete it, or give another path"
        ) from error
    if meta.get("format") != CHECKPOINT:
        raise TrainingError(f"{path} is no checkpoint (format {meta.get('format')!r:.40}): give another path")
    where = f"{path} can't be read as a checkpoint: its record"
    saved, record = (parse_json(meta.get(name, ""), where, TrainingError) for name in ("run", "record"))
    if not isinstance(saved, dict) or not isinstance(record, dict):
        raise TrainingError(f"{where} is damaged. Delete the file, or give another path")
    wanted = json.loads(json.dumps(run))
    differs = {key: (saved.get(key), wanted.get(key)) for key in {*saved, *wanted} if saved.get(key) != wanted.get(key)}
    if differs:
        listed = "; ".join(f"{key} was {was!r:.80} and is {now!r:.80}" for key, (was, now) in sorted(differs.items()))
        raise TrainingError(f"{path} belongs to another run ({listed}). Delete it, or give another path")
    return tensors, record
