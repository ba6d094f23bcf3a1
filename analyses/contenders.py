"""The vectors that studies set side by side, each in its own best form, and the judge of their answers."""

from collections.abc import Callable, Sequence
from typing import Any

import steerlens as sl
from analyses.names import METHODS, check_methods
from analyses.study import StudyConfig, store_of, weights_of


def make(
    config: StudyConfig,
    model: Any,
    behaviour: str | None = None,
    methods: Sequence[str] = METHODS,
    seed: int | None = None,
) -> dict[str, sl.SteeringVector]:
    """A behaviour's vector by each method at the study's layer, read from the store where it was made before.

    "caa" is read at the letter of their A/B form, as its authors do; "freeform" is the mean over the free-form answers;
    "random" has BiPO's norm, "caa" and the others their own.
    """
    check_methods(methods)
    pairs, layer, store = config.pairs(behaviour).train, config.preset.layer, store_of(config)
    seed = config.seeds[0] if seed is None else seed
    ways: dict[str, Callable[[], sl.SteeringVector]] = {
        "bipo": lambda: sl.train_bipo(model, pairs, layer, seed=seed, **config.bipo_options()),
        "caa": lambda: sl.extract_caa(model, config.letter_pairs(behaviour).train, layer, position="answer"),
        "freeform": lambda: sl.extract_caa(model, pairs, layer, position="mean"),
        "pca": lambda: sl.extract_pca(model, pairs, layer),
    }
    told = {"weights": weights_of(model), "pairs": pairs.described(), "layer": layer}
    found: dict[str, sl.SteeringVector] = {}
    for name in methods:
        if name == "random":
            continue
        more = {"seed": seed, **config.bipo_options()} if name == "bipo" else {}
        found[name] = store.vector(name, told | more, ways[name])
    if "random" in methods:
        like = found.get("bipo", next(iter(found.values())))
        found["random"] = sl.random_vectors(like, 1, seed=seed)[0]
    return found


def judge_of(config: StudyConfig, behaviour: str | None = None) -> tuple[Any, str]:
    """A judge that needs no network, and what is known of it: the toy world's rule, or a classifier of the pairs' words."""
    name = config.behaviour if behaviour is None else behaviour
    if config.is_toy:
        import steerlens.toy as toy

        judge = sl.judges.rule(lambda prompt, answer: toy.score(name, prompt, answer), name="the world's rule")
        return judge, "answers are scored by the world's rule, exactly"
    return _word_judge(config.pairs(name))


def _word_judge(pairs: sl.PreferencePairs) -> tuple[Any, str]:
    """Logistic regression on the words of the training answers: the probability that an answer is a matching one."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = [*pairs.train.chosen, *pairs.train.rejected]
    sides = [1] * len(pairs.train) + [0] * len(pairs.train)
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    classifier.fit(texts, sides)
    held_out = [*pairs.val.chosen, *pairs.val.rejected]
    right = classifier.score(held_out, [1] * len(pairs.val) + [0] * len(pairs.val))

    def probability(_prompt: str, answer: str) -> float | None:
        return float(classifier.predict_proba([answer])[0, 1]) if answer.strip() else None

    known = (
        f"answers are scored by a classifier of the training answers' words, right on {right:.0%} of validation answers"
    )
    return sl.judges.rule(probability, name="a classifier of words"), known
