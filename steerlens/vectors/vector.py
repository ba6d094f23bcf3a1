"""A steering vector: a direction with a size, and all that must be known to use and to believe it.

>>> vec = sl.train_bipo(model, pairs.train, layer=13)
>>> (2 * vec).norm == 2 * vec.norm, vec.direction.norm()
>>> vec.save("vec.safetensors"); sl.load_vector("vec.safetensors")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from steerlens.checks.values import (
    checked_count,
    checked_kind,
    checked_list,
    checked_number,
    checked_seed,
    checked_text,
    checked_texts,
    refusal,
    shown,
)
from steerlens.errors import VectorError
from steerlens.models.identity import ModelIdentity
from steerlens.vectors.origin import library_versions, pass_on
from steerlens.vectors.shapes import DVector, check_vector


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector to add to `blocks.{layer}.hook_resid_post`, and where it comes from.

    Args:
        tensor: Float[Tensor, " d_model"], kept as float32 on the CPU; in units of the residual stream.
        layer: the 0-based block after which it belongs.
        method: "bipo", "caa", "random", ...; names the curve in figures.
        model: the weights it was made on; None when that is not known (an imported file).
        settings: the method's own settings.
        data: where its pairs come from.
        seen: fingerprints of the pairs that trained or selected it; measures refuse to report on those.
        seed: of the method, or None where it draws nothing.
        history: a row per training step.
        snapshots: the tensor after some of those steps (training keeps it at the end of every epoch), by steps taken.
        versions: of the libraries that made it.

    Raises:
        VectorError: the tensor is not 1-D, not finite, or does not fit the model; the layer is not one of its layers.
    """

    tensor: DVector
    layer: int
    method: str = "user"
    model: ModelIdentity | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = "unknown"
    seen: frozenset[str] = frozenset()
    seed: int | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    snapshots: Mapping[int, Tensor] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=library_versions)

    def __post_init__(self) -> None:
        if self.model is not None:
            checked_kind("model", self.model, ModelIdentity, error=VectorError, cure="that of another vector, or None")
        d_model = None if self.model is None else self.model.d_model
        kept = check_vector(self.tensor, d_model=d_model).detach().to("cpu", torch.float32).clone()
        check_vector(kept, what="the vector in float32")
        layer = checked_count("layer", self.layer, error=VectorError, least=0)
        if self.model is not None and layer >= self.model.n_layers:
            raise VectorError(f"layer={layer}; {self.model.name} has layers 0 to {self.model.n_layers - 1}")
        seen = (
            self.seen
            if isinstance(self.seen, frozenset)
            else frozenset(checked_texts("seen", self.seen, error=VectorError))
        )
        history = checked_list("history", self.history, error=VectorError, of="rows, a dict for each step", least=0)
        plain = {
            "tensor": kept,
            "layer": layer,
            "method": checked_text("method", self.method, error=VectorError),
            "data": checked_text("data", self.data, error=VectorError),
            "seed": None if self.seed is None else checked_seed(self.seed, error=VectorError),
            "settings": MappingProxyType(dict(_named("settings", self.settings))),
            "versions": MappingProxyType(dict(_named("versions", self.versions))),
            "seen": seen,
            "history": tuple(_named("history", row) for row in history),
            "snapshots": MappingProxyType(
                {s: self._snapshot(s, t) for s, t in _mapping("snapshots", self.snapshots).items()}
            ),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def _snapshot(self, step: object, tensor: Tensor) -> Tensor:
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise VectorError(f"a snapshot after {shown(step)} steps; expected a whole number of them")
        what = f"the snapshot after {step} steps"
        return check_vector(tensor, d_model=self.tensor.numel(), what=what).detach().to("cpu", torch.float32)

    def __getstate__(self) -> dict[str, Any]:  # a mappingproxy can't be pickled, and a sweep's workers return vectors
        return {name: dict(value) if name in _MAPPINGS else value for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in _MAPPINGS:
            self.__dict__[name] = MappingProxyType(state[name])

    @property
    def norm(self) -> float:
        """Euclidean length, in units of the residual stream."""
        return float(self.tensor.double().norm())

    @property
    def direction(self) -> DVector:
        """The unit tensor that points the same way.

        Raises:
            VectorError: the vector is zero.
        """
        if self.norm == 0:
            raise VectorError("the vector is zero, so it has no direction")
        return (self.tensor.double() / self.norm).float()

    @property
    def effective(self) -> "SteeringVector":
        """The part that the model can see: on LayerNorm models the vector less its mean over d_model, else the vector.

        A constant added to all of d_model changes nothing there, and TransformerLens's centring takes it out of the
        residual stream: norms and directions are compared without it.
        """
        if self.model is None or self.model.normalization != "LN":
            return self
        centred = {step: (t.double() - t.double().mean()).float() for step, t in self.snapshots.items()}
        return self._with(self.tensor.double() - self.tensor.double().mean())._changed(snapshots=centred)

    def scaled_to(self, norm: float) -> "SteeringVector":
        """The vector of that norm in the same direction."""
        norm = checked_number("norm", norm, error=VectorError, least=0)
        return self._with(self.direction.double() * norm, scaled_to=norm)

    def along(self, other: "SteeringVector") -> "SteeringVector":
        """The part of this vector that points along another one (or against it): (v . u) u, with u the other's direction.

        Raises:
            VectorError: the vectors belong to different weights, or the other is zero.
        """
        check_same_space(self, other)
        unit = other.direction.double()
        part = self._with((self.tensor.double() @ unit) * unit, part=f"along {other.method}")
        return part._changed(seen=self.seen | other.seen)

    def off(self, other: "SteeringVector") -> "SteeringVector":
        """The rest, at right angles to the other vector; `v.along(u) + v.off(u)` is v."""
        rest = self.tensor.double() - self.along(other).tensor.double()
        return self._with(rest, part=f"off {other.method}")._changed(seen=self.seen | other.seen)

    def after(self, steps: int) -> "SteeringVector":
        """The vector as training had it after that many steps, one of `snapshots`.

        Raises:
            VectorError: no snapshot was kept there; lists those that were.
        """
        steps = checked_count("steps", steps, error=VectorError, least=0)
        if steps not in self.snapshots:
            raise VectorError(f"no snapshot after {steps} steps; this {self.method} vector has {list(self.snapshots)}")
        settings = {**self.settings, "steps": steps}
        kept = {step: tensor for step, tensor in self.snapshots.items() if step <= steps}
        return self._changed(
            tensor=self.snapshots[steps], settings=settings, history=self.history[:steps], snapshots=kept
        )

    # -- algebra ------------------------------------------------------------------------------------------------------

    def _with(self, tensor: Tensor, **settings: Any) -> "SteeringVector":
        # The history tells of another vector's norm and loss, so it does not come along.
        told = {**self.settings, **settings}
        return self._changed(tensor=tensor.float(), settings=told, history=(), snapshots={})

    def _changed(self, **changes: Any) -> "SteeringVector":
        new = replace(self, **changes)
        pass_on(self, new)
        return new

    def __mul__(self, multiplier: float) -> "SteeringVector":
        if isinstance(multiplier, bool) or not isinstance(multiplier, Real):
            return NotImplemented
        multiplier = checked_number("multiplier", multiplier, error=VectorError)
        factor = float(self.settings.get("multiplied_by", 1.0)) * multiplier
        return self._with(self.tensor.double() * multiplier, multiplied_by=factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SteeringVector":
        if isinstance(divisor, bool) or not isinstance(divisor, Real):
            return NotImplemented
        divisor = checked_number("divisor", divisor, error=VectorError)
        if divisor == 0:
            raise VectorError("a vector can't be divided by 0")
        return self * (1 / divisor)

    def __neg__(self) -> "SteeringVector":
        return self * -1

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        if not isinstance(other, SteeringVector):
            return NotImplemented
        check_same_space(self, other)
        if self.layer != other.layer:
            raise VectorError(
                f"one vector belongs after layer {self.layer}, the other after layer {other.layer}; a sum needs one layer. "
                "To steer with both, nest two `with sl.steer(...)` blocks"
            )
        return SteeringVector(
            (self.tensor.double() + other.tensor.double()).float(),
            self.layer,
            method="sum",
            model=self.model or other.model,
            settings={"terms": [*self._terms(), *other._terms()]},
            data=self.data if self.data == other.data else f"{self.data} + {other.data}",
            seen=self.seen | other.seen,
        )

    def _terms(self) -> list[str]:
        terms, factor = self.settings.get("terms"), self.settings.get("multiplied_by", 1.0)
        signed = f", multiplied by {factor:g}" if factor != 1 else ""
        return [f"{term}{signed}" for term in terms or [f"{self.method}, norm {self.norm:.4g}"]]

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self + (-other) if isinstance(other, SteeringVector) else NotImplemented

    def __repr__(self) -> str:
        where = "" if self.model is None else f", {self.model.name}"
        return f"SteeringVector({self.method}, layer {self.layer}{where}, norm {self.norm:.4g}, data {self.data!r})"

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the vector with all it knows to .safetensors, or to llama.cpp's .gguf without history and snapshots.

        Returns the path. A .gguf holds the rest as metadata, the fingerprints of seen pairs among it; other programs that
        write the file anew leave that out.

        Raises:
            VectorError: another file ending, no such folder, a full or read-only disk, or a .gguf for layer 0, which that
                format can't hold.
        """
        from steerlens.vectors.files import save_vector

        return save_vector(self, path)


_MAPPINGS = ("settings", "snapshots", "versions")


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise VectorError(refusal(name, value, "a dict"))
    return value


def _named(name: str, value: Any) -> Mapping[str, Any]:
    if not all(isinstance(key, str) for key in _mapping(name, value)):
        raise VectorError(refusal(name, value, "a dict whose keys are names"))
    return value


def check_same_space(*vectors: SteeringVector) -> None:
    """Raise VectorError unless all vectors belong to the same weights (as far as that is known) and width."""
    known: ModelIdentity | None = None
    for vector in vectors:
        check_is_vector(vector)
        if vector.tensor.numel() != vectors[0].tensor.numel():
            raise VectorError(
                f"the vectors have {vectors[0].tensor.numel()} and {vector.tensor.numel()} numbers: they belong to different models"
            )
        if vector.model is None:
            continue
        if known is not None and not known.same_weights(vector.model):
            raise VectorError(
                f"the vectors belong to different weights: {known.describe()} and {vector.model.describe()}. "
                "Vectors of different models can't be compared or added; make both on the same one"
            )
        known = known or vector.model


def check_is_vector(vector: object) -> None:
    """Raise VectorError unless it is a SteeringVector."""
    if not isinstance(vector, SteeringVector):
        raise VectorError(
            f"got a {type(vector).__name__}; expected a SteeringVector. Wrap a tensor: sl.SteeringVector(tensor, layer=13)"
        )


def check_fits(vector: SteeringVector, model: ModelIdentity) -> None:
    """Raise VectorError unless the vector can be added to that model's residual stream after its layer."""
    check_is_vector(vector)
    check_vector(vector.tensor, d_model=model.d_model, what=f"the {vector.method} vector")
    if vector.layer >= model.n_layers:
        raise VectorError(
            f"the vector belongs after layer {vector.layer}; {model.name} has layers 0 to {model.n_layers - 1}"
        )
    if vector.model is not None and not vector.model.same_weights(model):
        differ = model.other_settings(vector.model)
        raise VectorError(
            f"the vector was made on other weights: {vector.model.describe()}; this model is {model.describe()}"
            f"{f', with other settings ({differ})' if differ else ''}. "
            "To transfer it on purpose, drop what it knows of its model: dataclasses.replace(vector, model=None)"
        )


def union_seen(vectors: Sequence[SteeringVector]) -> frozenset[str]:
    """The fingerprints of all pairs that trained or selected any of the vectors."""
    return frozenset().union(*(v.seen for v in vectors))
