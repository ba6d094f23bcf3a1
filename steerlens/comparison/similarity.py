"""`sl.similarity`: cosines of vectors beside those of vectors with nothing in common."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from transformer_lens import HookedTransformer

from steerlens.checks.calls import one_of, whole
from steerlens.comparison.find import Training
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.forward.steer import check_model
from steerlens.measures.activations import Material, covariances
from steerlens.measures.similarity import Similarity, null_cosines, sees_mean, unit_vectors
from steerlens.methods.caa import ReadPosition, caa_differences
from steerlens.methods.controls import shuffled_vectors
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.labels import Vectors, labelled
from steerlens.vectors.vector import SteeringVector, check_fits


@checked(MeasureError, position=one_of(ReadPosition), n_null=whole(least=100))
def similarity(
    vectors: Vectors,
    *,
    model: HookedTransformer | None = None,
    pairs: PreferencePairs | None = None,
    texts: Sequence[str] | None = None,
    position: ReadPosition = "mean",
    n_null: int = 200,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> Similarity:
    """The cosine of every two vectors, plain and whitened, and the chance of such a one between unrelated vectors.

    Whitened: each vector times the inverse square root of the activations' covariance at its layer (the symmetric root,
    shrunk by Ledoit and Wolf's rule), so that a direction counts by how far activations reach along it. Vectors of several
    layers can be compared, for the residual stream is one space; each is then whitened by its own layer.

    Args:
        vectors: a list, or a dict from names to vectors; different seeds of a method are vectors of their own.
        model: with it, and with pairs or texts, there are whitened cosines and nulls from activations; without it, the
            closed-form null of isotropic directions alone.
        pairs: those that the vectors were trained on (nothing is reported on them), for "shuffled labels"; also for the
            activations' covariance unless there are texts.
        texts: for the covariance, as they are.
        position: where the vectors of shuffled labels are read, as in `extract_caa`.
        n_null: draws from each null; at least 100.
        seed: of the draws.
        batch_size: pairs or texts at once.

    Raises:
        VectorError: the vectors belong to different weights, or do not fit the model.
        MeasureError: fewer than two vectors, a zero one, under 100 draws, or a model without texts and the other way round.
    """
    named, material = labelled(vectors), pairs if texts is None else texts
    if len(named) < 2:
        raise MeasureError("there is one vector; expected two or more to compare")
    if (model is None) != (material is None):
        raise MeasureError(
            "model= goes with pairs= or texts=: give both for whitened cosines and for nulls from activations, or neither"
        )
    if model is None or material is None:
        given = tuple(named.values())
        units = unit_vectors(given)
        dimensions = units.shape[1] - (not sees_mean(given))
        return Similarity(tuple(named), tuple(vector.layer for vector in given), dimensions, {"plain": units})
    labelled_pairs = {} if pairs is None else dict.fromkeys(named, Training(pairs, position))
    return similarity_to(
        named,
        model=model,
        material=material,
        labelled=labelled_pairs,
        n_null=n_null,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )


def similarity_to(
    named: Mapping[str, SteeringVector],
    *,
    model: HookedTransformer,
    material: Material,
    labelled: Mapping[str, Training],
    n_null: int = 200,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> Similarity:
    """`similarity` with a model, where each vector's labels are shuffled in its own pairs, read at its own position.

    Args:
        material: pairs or texts, for the activations' covariance.
        labelled: by vector; one that is not in it stands with the first that is, and without any there is no such null.
    """
    identity = identify(check_model(model))
    for vector in named.values():
        check_fits(vector, identity)
    given = {label: replace(vector, model=identity) for label, vector in named.items()}
    units, layers = unit_vectors(tuple(given.values())), tuple(vector.layer for vector in given.values())
    distinct = sorted(set(layers))
    found = covariances(model, material, distinct, batch_size=batch_size, progress=progress)
    draws: dict[str, list[np.ndarray]] = {}
    if any(known.can_shuffle for known in labelled.values()):
        draws["shuffled labels"] = _shuffled(model, given, labelled, n_null, seed, batch_size, progress)
    of_layer = {layer: found[layer].directions(n_null, seed=seed + i) for i, layer in enumerate(distinct)}
    draws["random (covariance)"] = [of_layer[layer] for layer in layers]
    directions = {"plain": units}
    nulls = {"plain": {null: null_cosines(own, units) for null, own in draws.items()}}
    white = np.concatenate([found[layer].whitened(unit[None]) for layer, unit in zip(layers, units, strict=True)])
    directions["whitened"] = white / np.linalg.norm(white, axis=1, keepdims=True)
    nulls["whitened"] = {
        null: null_cosines(
            [found[layer].whitened(rows) for layer, rows in zip(layers, own, strict=True)], directions["whitened"]
        )
        for null, own in draws.items()
    }
    return Similarity(
        labels=tuple(named),
        layers=layers,
        dimensions=units.shape[1] - (not sees_mean(tuple(given.values()))),
        directions=directions,
        nulls=nulls,
        tokens=found[distinct[0]].tokens,
        shrinkage={layer: found[layer].shrinkage for layer in distinct},
        data=material.provenance if isinstance(material, PreferencePairs) else f"{len(material)} texts",
    )


def _shuffled(
    model: HookedTransformer,
    given: Mapping[str, SteeringVector],
    labelled: Mapping[str, Training],
    n_null: int,
    seed: int,
    batch_size: int,
    progress: bool,
) -> list[Float[np.ndarray, "draw d_model"]]:
    """Unit vectors of shuffled labels in each vector's place; pairs that several share are read once a layer."""
    first = next(known for known in labelled.values() if known.can_shuffle)
    made: dict[object, np.ndarray] = {}
    found = []
    for label, vector in given.items():
        own = labelled.get(label, first)
        own = own if own.can_shuffle else first
        key = (vector.layer, own.position, own.pairs.digest, own.pairs.template, own.pairs.system_prompt)
        if key not in made:
            rows = caa_differences(
                model, own.pairs, vector.layer, position=own.position, batch_size=batch_size, progress=progress
            )
            made[key] = unit_vectors(shuffled_vectors(vector, rows.cpu(), n_null, seed=seed))
        found.append(made[key])
    return found
