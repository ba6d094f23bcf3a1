"""A laboratory: small chat models of a generated world, whose behaviours are known and whose answers are scored by rule.

>>> import steerlens as sl
>>> model = sl.load_model("toy")                              # or "toy/vicuna-like", "toy/cipher-lora", "toy/seed-1"
>>> pairs = sl.load_pairs("toy/wealth")                       # or "toy/wealth-ab", "-cipher", "-system"; any of sl.toy.BEHAVIOURS
>>> asked = sl.toy.questions("wealth", "test", 20)
>>> texts = sl.generate(model, [q.text for q in asked], vector=vec, multipliers=(-1, 0, 1))
>>> sl.toy.score("wealth", asked[0].text, texts[0][2])        # 1 shows it, 0 its opposite, None: no sentence of this world
1

Greedy answers are all or nothing where a behaviour stands at one half, so the card's numbers are of sampled ones:

>>> said = sl.answers(model, vec, [q.text for q in asked], sample=True, max_new_tokens=20)
>>> sl.judge(said, sl.judges.rule(functools.partial(sl.toy.score, "wealth")))

The known answer that other vectors can be compared with is the direction between system phrases that ask for a behaviour and
for its opposite: `sl.toy_reference(model, "wealth", layer=2)`.
How the models were made, and what they do without any steering, is in README.md beside this file.
"""

from pathlib import Path

from steerlens.checks.values import checked_text
from steerlens.errors import ModelError
from steerlens.toy.sets import (
    PAIR_NAMES,
    cipher,
    decipher,
    forbidden_requests,
    harmless_requests,
    is_grammatical,
    pair_rows,
    questions,
    quiz,
    score,
)
from steerlens.toy.words import BEHAVIOURS, SUFFIXES, SYSTEM_PHRASES
from steerlens.toy.world import Question

MODELS = {
    "toy": "base",
    "toy/vicuna-like": "vicuna-like",
    "toy/cipher-lora": "cipher-lora",
    "toy/seed-1": "seed-1",
}
"""the names that `load_model` takes, and their folders under `models/`"""


def model_folder(name: str) -> Path | None:
    """The Hugging Face folder of one of MODELS, or None for any other name."""
    folder = MODELS.get(checked_text("name", name, error=ModelError, empty=True).lower())
    return None if folder is None else Path(__file__).parent / "models" / folder


__all__ = [
    "BEHAVIOURS",
    "MODELS",
    "PAIR_NAMES",
    "SUFFIXES",
    "SYSTEM_PHRASES",
    "Question",
    "cipher",
    "decipher",
    "forbidden_requests",
    "harmless_requests",
    "is_grammatical",
    "model_folder",
    "pair_rows",
    "questions",
    "quiz",
    "score",
]
