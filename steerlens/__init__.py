"""steerlens: what does a steering vector do inside a model?

Five nouns:

- **Pair**: a prompt, a response that shows a behaviour, and one that shows its opposite (`PreferencePairs`).
- **Vector**: what is added to the residual stream after one block, `blocks.{layer}.hook_resid_post` (`SteeringVector`).
- **Method**: pairs -> vector (`train_bipo`, `extract_caa`).
- **Measure**: vectors (and a model) -> result (`preference_shift`, `logit_lens`, `compare`).
- **Figure**: result -> `plotly.graph_objects.Figure` (`result.figure()`).

>>> import steerlens as sl
>>> model = sl.load_model()                                   # SmolLM2-135M-Instruct, as a HookedTransformer
>>> pairs = sl.load_pairs("wealth-seeking")
>>> bipo = sl.train_bipo(model, pairs.train, layer=13, val_pairs=pairs.val, lr=0.02, max_steps=60)
>>> caa = sl.extract_caa(model, pairs.train, layer=13)
>>> sl.compare(bipo, caa)                                     # cosine, norms, held-out shifts, controls, logit lens
>>> with sl.steer(model, bipo, multiplier=1.5):
...     model.generate("How would you spend a bonus?")
>>> sl.generate(model, ["How would you spend a bonus?"], vector=bipo, multipliers=(-1, 0, 1))
"""

from importlib.metadata import PackageNotFoundError, version

import steerlens.measures.judges as judges  # noqa: F401 - a namespace, as sl.toy is
from steerlens.comparison.compare import compare
from steerlens.comparison.comparison import Comparison
from steerlens.comparison.similarity import similarity
from steerlens.comparison.sweep import Sweep, sweep
from steerlens.errors import (
    FigureError,
    MeasureError,
    ModelError,
    PairsError,
    SteeringError,
    SteerLensError,
    TrainingError,
    VectorError,
)
from steerlens.figures.report import report
from steerlens.forward.steer import steer
from steerlens.generation.generate import generate
from steerlens.measures.activation_map import ActivationMap, activation_map
from steerlens.measures.answers import Answers, answers
from steerlens.measures.choice import multiple_choice, truthful_qa
from steerlens.measures.choice_scores import ChoiceScores, TruthfulScores
from steerlens.measures.dose_response import DoseResponse, dose_response
from steerlens.measures.downstream_lens import DownstreamLens, downstream_lens
from steerlens.measures.effect import PreferenceShift, preference_shift
from steerlens.measures.inspect import inspect
from steerlens.measures.inspection import Inspection
from steerlens.measures.judged import Judged, attack_success, judge
from steerlens.measures.knowledge import Knowledge, knowledge
from steerlens.measures.logit_lens import LogitLens, logit_lens
from steerlens.measures.margin_shift import margin_shift
from steerlens.measures.matched import Match, match_multiplier
from steerlens.measures.projection import TokenProjection, token_projection
from steerlens.measures.side_effects import SideEffects, side_effects
from steerlens.measures.similarity import Similarity
from steerlens.methods.bipo import bipo_loss, train_bipo, train_bipo_grid
from steerlens.methods.caa import extract_caa, match_norms
from steerlens.methods.controls import mean_activation, random_vectors
from steerlens.methods.dpo_lora import train_dpo_lora
from steerlens.methods.pca import extract_pca
from steerlens.methods.prompt_difference import extract_difference_in_means
from steerlens.methods.supervised import train_supervised
from steerlens.methods.toy_reference import toy_reference
from steerlens.models.load import load_model
from steerlens.pairs.load import load_pairs
from steerlens.pairs.load_questions import load_prompts, load_questions
from steerlens.pairs.preference import PreferencePair, PreferencePairs
from steerlens.pairs.published import datasets
from steerlens.pairs.questions import ChoiceLayout, ChoiceQuestion, ChoiceQuestions
from steerlens.results.result import load_result
from steerlens.vectors.files import load_vector
from steerlens.vectors.vector import SteeringVector
from steerlens.widgets.playground import playground

try:
    __version__ = version("steerlens")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = [
    "ActivationMap",
    "Answers",
    "ChoiceLayout",
    "ChoiceQuestion",
    "ChoiceQuestions",
    "ChoiceScores",
    "Comparison",
    "DoseResponse",
    "DownstreamLens",
    "FigureError",
    "Inspection",
    "Judged",
    "Knowledge",
    "LogitLens",
    "Match",
    "MeasureError",
    "ModelError",
    "PairsError",
    "PreferencePair",
    "PreferencePairs",
    "PreferenceShift",
    "SideEffects",
    "Similarity",
    "SteerLensError",
    "SteeringError",
    "SteeringVector",
    "Sweep",
    "TokenProjection",
    "TrainingError",
    "TruthfulScores",
    "VectorError",
    "activation_map",
    "answers",
    "attack_success",
    "bipo_loss",
    "compare",
    "datasets",
    "dose_response",
    "downstream_lens",
    "extract_caa",
    "extract_difference_in_means",
    "extract_pca",
    "generate",
    "inspect",
    "judge",
    "knowledge",
    "load_model",
    "load_pairs",
    "load_prompts",
    "load_questions",
    "load_result",
    "load_vector",
    "logit_lens",
    "margin_shift",
    "match_multiplier",
    "match_norms",
    "mean_activation",
    "multiple_choice",
    "playground",
    "preference_shift",
    "random_vectors",
    "report",
    "side_effects",
    "similarity",
    "steer",
    "sweep",
    "token_projection",
    "toy_reference",
    "train_bipo",
    "train_bipo_grid",
    "train_dpo_lora",
    "train_supervised",
    "truthful_qa",
]
