"""What other packages gave on one small model (analyses/make_references.py), and that model as steerlens loads it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer

from steerlens.models.load import load_model
from steerlens.pairs.preference import PreferencePairs

FILE = Path(__file__).parent / "reference" / "other_packages.safetensors"


class Reference(NamedTuple):
    """The model, its pairs ("free-form", "A/B"), and the vectors ("package.way.position.layer")."""

    model: HookedTransformer
    pairs: dict[str, PreferencePairs]
    vectors: dict[str, torch.Tensor]


def load_reference(folder: Path) -> Reference:
    """Rebuild the model in a folder, from the file alone."""
    with safe_open(str(FILE), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about: dict[str, Any] = {name: json.loads(text) for name, text in file.metadata().items()}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**about["sizes"]))
    model.load_state_dict({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
    model.save_pretrained(folder)
    rule = Tokenizer(models.WordLevel({word: i for i, word in enumerate(about["words"])}, unk_token="<unk>"))
    rule.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = {"eos_token": "</s>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=rule, **special).save_pretrained(folder)
    pairs = {
        name: PreferencePairs(*zip(*rows, strict=True), template="plain")  # type: ignore[arg-type]
        for name, rows in about["pairs"].items()
    }
    vectors = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
    return Reference(load_model(folder, device="cpu"), pairs, vectors)
