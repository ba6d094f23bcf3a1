"""CAA F7 and BiPO's published vectors: cosines between methods, behaviours and layers, against nulls.

python -m analyses.geometry --model toy --behaviour wealth --other power
python -m analyses.geometry --model smollm2 --behaviour wealth-seeking --other power-seeking
python -m analyses.geometry --vectors wealth-seeking_llama-2_layer15.pt,power-seeking_llama-2_layer15.pt
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

import steerlens as sl
from analyses.contenders import make
from analyses.study import Finding, StudyConfig, main, store_of, weights_of
from steerlens.figures.heatmaps import cosine_map


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is compared."""

    other: str = "power"
    behaviours: tuple[str, ...] = ()
    """default: --behaviour and --other"""
    methods: tuple[str, ...] = ("bipo", "freeform", "pca")
    layers: tuple[int, ...] = ()
    vectors: tuple[str, ...] = ()
    """vectors in files instead (the BiPO authors' .pt): only cosines and norms, for which no model is needed"""

    @property
    def behaviours_used(self) -> tuple[str, ...]:
        """The behaviours whose vectors are compared."""
        return () if self.vectors else self.behaviours or (self.behaviour, self.other)


def run(config: Config) -> Finding:
    """Cosines and what unrelated vectors would give."""
    published = (
        "cosines on Llama-2: power-wealth +0.513, power-hallucination +0.263, wealth-hallucination +0.261; "
        "norms 8.703 (power), 8.994 (wealth), 7.229 (hallucination)"
    )
    if config.vectors:
        named = {name.split("/")[-1]: sl.load_vector(name) for name in config.vectors}
        found = sl.similarity(named)
        return finding(config, published, {"files": found}, [f"{n}: norm {v.norm:.3f}" for n, v in named.items()])
    model, results, said = config.load(), {}, []
    group = {
        f"{method} {behaviour}": vector
        for behaviour in config.behaviours_used
        for method, vector in make(config, model, behaviour, config.methods).items()
    }
    pairs = config.pairs(config.behaviours_used[0])
    results["methods"] = sl.similarity(group, model=model, pairs=pairs.train)
    store, layers = store_of(config), config.layers or config.preset.layers
    told = {"weights": weights_of(model), "pairs": pairs.train.described()}
    by_layer = {
        f"layer {layer}": store.vector(
            "caa-mean", {**told, "layer": layer}, partial(sl.extract_caa, model, pairs.train, layer)
        )
        for layer in layers
    }
    results["layers"] = sl.similarity(by_layer)
    near = [results["layers"].cosines[i, i + 1] for i in range(len(layers) - 1)]
    far = results["layers"].cosines[0, -1]
    said.append(
        f"CAA (mean): neighbouring layers of {layers} have mean cosine {np.mean(near):+.2f}; first and last {far:+.2f}"
    )
    return finding(config, published, results, said)


def finding(config: Config, published: str, results: dict[str, sl.Similarity], said: list[str]) -> Finding:
    """The cosines with their p-values, and heat maps."""
    for name, similarity in results.items():
        if name != "layers":
            said += str(similarity).splitlines()[1:]
    return Finding(
        study="geometry-files" if config.vectors else "geometry",
        title="Cosines of vectors in files" if config.vectors else f"Cosines on {config.name}",
        item="CAA F7; BiPO's published vectors",
        published=published,
        found=said,
        figures={name: cosine_map(similarity) for name, similarity in results.items()},
        tables={name: similarity.to_frame() for name, similarity in results.items()},
    )


if __name__ == "__main__":
    main(run, Config)
