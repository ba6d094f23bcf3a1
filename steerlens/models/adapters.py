"""LoRA adapters from a folder, merged into a Hugging Face model before it is converted."""

import importlib.util
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from steerlens.errors import ModelError
from steerlens.files import read_json
from steerlens.models.sources import check_files

log = logging.getLogger(__name__)
# Nats, as in `models`: merging rounds as a conversion does.
_LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.float64: 1e-4}
_MEAN_DIFFERENCE = 0.1


def adapter_folder(adapter: str | os.PathLike[str]) -> Path:
    """The folder of a LoRA adapter, looked at before any weights are read.

    Raises:
        ModelError: no folder, no adapter_config.json or weights in it, an adapter that is not LoRA, or peft is missing.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"adapter={os.fspath(adapter)!r} is no folder; expected one saved with peft's save_pretrained "
            "(`hf download owner/name --local-dir folder` makes one of an adapter on the hub)."
        )
    config = read_adapter_config(folder)
    if config.get("peft_type") != "LORA" or config.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"{folder}: peft_type {config.get('peft_type')!r}, task_type {config.get('task_type')!r}; expected a LORA "
            "adapter of a CAUSAL_LM. Merge others with peft yourself, save the model, and load that folder."
        )
    if config.get("layer_replication"):
        raise ModelError(f"{folder}: layer_replication changes the number of layers; merge it with peft and save that.")
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise ModelError(f"{folder} has no adapter_model.safetensors: expected the weights beside adapter_config.json.")
    if importlib.util.find_spec("peft") is None:
        raise ModelError("Merging an adapter needs the peft package: pip install 'steerlens[lora]'")
    return folder


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a folder."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no adapter_config.json; expected a folder saved with peft's save_pretrained. "
            "(A whole model's folder is load_model's first argument.)"
        )
    found = read_json(path, ModelError)
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no JSON object; expected an adapter's")
    check_files(folder)
    return found


def merge_adapter(base: PreTrainedModel, folder: Path, label: str) -> PreTrainedModel:
    """The model with the adapter's update added to its weights: W + (alpha / r) B A. `base` itself is changed.

    Raises:
        ModelError: the adapter does not fit the model, weights are left over, or merging changed what is computed.
    Source: LoRA, Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    named = read_adapter_config(folder).get("base_model_name_or_path")
    trained_on = str(named or "a model that it does not name")
    known = {Path(name).name.lower() for name in (label, str(base.name_or_path))}
    if named and Path(named).name.lower() not in known:
        log.warning("the adapter in %s was trained on %s; it is merged into %s", folder, trained_on, label)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns of is checked below
            adapted = PeftModel.from_pretrained(base, str(folder), torch_device=str(base.device)).eval()
            stored = load_peft_weights(str(folder), device="cpu")
    except Exception as error:  # peft raises RuntimeError, ValueError, KeyError for what does not fit
        raise ModelError(
            f"the adapter in {folder} does not fit {label}; it was trained on {trained_on}. peft says: {error!s:.400}"
        ) from error
    placed = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # "auto" asks the hub
    carried = set(stored) & set(adapted.state_dict())  # embeddings of the base, saved along
    wrong = sorted((set(placed) ^ set(stored)) - carried)
    if wrong:
        raise ModelError(
            f"the adapter in {folder} and {label} disagree about {len(wrong)} weights ({', '.join(wrong[:4])}); it was "
            f"trained on {trained_on}. If they belong together, merge them with peft, save the model, and load that folder"
        )
    before = _log_probs(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = adapted.merge_and_unload()
    _check_same(before, _log_probs(merged), folder, merged.dtype)
    return merged


@torch.no_grad()
def _log_probs(model: Any) -> torch.Tensor:
    tokens = torch.randint(
        model.config.vocab_size, (2, 24), device="cpu", generator=torch.Generator("cpu").manual_seed(0)
    )
    return model(input_ids=tokens.to(model.device), use_cache=False).logits.cpu().double().log_softmax(-1)


def _check_same(before: torch.Tensor, after: torch.Tensor, folder: Path, dtype: torch.dtype) -> None:
    gap = (before - after).abs()
    limit = _LARGEST_DIFFERENCE.get(dtype, _MEAN_DIFFERENCE)
    found = float(gap.max() if dtype in _LARGEST_DIFFERENCE else gap.mean())
    if not found <= limit:
        raise ModelError(
            f"merging the adapter in {folder} changed the log-probabilities by {found:.2g} nats (at most {limit:g} is "
            "rounding): it has a part that cannot be merged, such as LoRA on embeddings that are tied to the unembedding"
        )
