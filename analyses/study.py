"""What the studies share: a command line made from a Config, what a model needs by default, and files for what was found."""

import argparse
import dataclasses
import json
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import plotly.graph_objects as go
from transformer_lens import HookedTransformer

import steerlens as sl
from analyses.names import METHODS, check_methods, check_model_name, published_behaviours
from steerlens.figures.images import offline
from steerlens.figures.paper import for_print
from steerlens.files import whole_file
from steerlens.models.identity import identify
from steerlens.results.cell_store import Store
from steerlens.vectors.origin import library_versions


@dataclass(frozen=True)
class Preset:
    """A layer, learning rate and number of steps for BiPO; 7B models have the authors' own."""

    layer: int
    lr: float
    steps: int | None
    """None: 20 epochs"""
    layers: tuple[int, ...]
    """for studies over layers"""
    n_layers: int | None = None
    """how many the model has, so that a layer it lacks is refused before the model is loaded"""


PRESETS = {
    "toy": Preset(layer=1, lr=5e-4, steps=300, layers=(0, 1, 2, 3, 4, 5), n_layers=6),
    "smollm2": Preset(layer=13, lr=0.08, steps=60, layers=(5, 9, 13, 17, 21, 25), n_layers=30),
    "llama-2-7b-chat": Preset(layer=15, lr=5e-4, steps=None, layers=(7, 11, 13, 15, 17, 21), n_layers=32),
    "mistral-7b-instruct": Preset(layer=13, lr=5e-4, steps=None, layers=(7, 10, 13, 16, 19, 22), n_layers=32),
}


@dataclass(frozen=True)
class StudyConfig:
    """What every study asks for."""

    model: str = "toy"
    """a name or a folder for `sl.load_model`"""
    behaviour: str = "wealth"
    """a built-in behaviour; with --data, the published set of that name ("wealth-seeking")"""
    data: Path | None = None
    """the folder that holds bipo/, with the published sets (`sl.datasets()` names them); default: steerlens's own pairs"""
    layer: int | None = None
    """default: the model's preset"""
    lr: float | None = None
    steps: int | None = None
    seeds: tuple[int, ...] = (0,)
    dtype: str = "float32"
    """the weights' type; "bfloat16" for a 7B model on a GPU"""
    most: tuple[int, ...] = ()
    """at most so many training, validation and test pairs, "240,30,50"; default: all"""
    out: Path = Path("analyses/out")
    """figures, tables and finished cells go to a folder of the study's name in it"""

    @property
    def name(self) -> str:
        """The model's name: a folder's own, without the way to it."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @property
    def preset(self) -> Preset:
        """The model's preset; a model without one needs --layer and --lr."""
        name = next((name for name in PRESETS if self.model.split("/")[0].startswith(name)), None)
        if name is None and None in (self.layer, self.lr):
            raise sl.ModelError(
                f"{self.model!r} has no preset: give --layer and --lr, and --steps unless 20 epochs are meant (presets: "
                f"{', '.join(PRESETS)})"
            )
        known = PRESETS[name] if name else Preset(layer=0, lr=0.0, steps=None, layers=())
        given = {key: getattr(self, key) for key in ("layer", "lr", "steps") if getattr(self, key) is not None}
        return dataclasses.replace(known, **given)

    def load(self, name: str | None = None) -> HookedTransformer:
        """The study's model, or another one in its dtype."""
        return sl.load_model(self.model if name is None else name, dtype=self.dtype)

    def pairs(self, behaviour: str | None = None) -> sl.PreferencePairs:
        """The behaviour's pairs for the model: the toy world's own, the published set in `data`, or the built-in one."""
        name = self.behaviour if behaviour is None else behaviour
        if self.is_toy:
            return self._first(sl.load_pairs(f"toy/{name}"))
        if self.data is None:
            return self._first(sl.load_pairs(name))
        if name not in published_behaviours():
            raise sl.PairsError(f"no published set bipo/{name} is known; expected one of {published_behaviours()}")
        return self._first(_with_val(sl.load_pairs(f"bipo/{name}", data_dir=self.data, on_bad="drop")))

    def _first(self, pairs: sl.PreferencePairs) -> sl.PreferencePairs:
        """The first pairs of each part, as many as `most` admits."""
        if not self.most:
            return pairs
        if len(self.most) != 3 or min(self.most) < 1:
            raise sl.PairsError(f"--most {self.most}: expected three numbers, for training, validation and test pairs")
        parts = (pairs.train, pairs.val, pairs.test)
        return joined(*(part[:n] for part, n in zip(parts, self.most, strict=True)))

    def letter_pairs(self, behaviour: str | None = None) -> sl.PreferencePairs:
        """The A/B form of `pairs`, for CAA at the letter."""
        name = self.behaviour if behaviour is None else behaviour
        if self.is_toy:
            return self._first(sl.load_pairs(f"toy/{name}-ab"))
        return self.pairs(name).as_choices(seed=0).as_pairs()

    def check(self) -> None:
        """Refuse an unknown model, folder, layer, method or behaviour before any work, with the list of what there is.

        Raises:
            ModelError: there is no such model or layer, or the model has no preset.
            MeasureError: there is no such method, or no seed.
            PairsError: there is no such behaviour or folder, or the toy model is asked about other data than its own.
        """
        for model in (self.model, *self.other_models):
            check_model_name(model)
        layers, n_layers = (self.preset.layer, *getattr(self, "layers", ())), self.preset.n_layers
        if n_layers is not None and not all(0 <= layer < n_layers for layer in layers):
            raise sl.ModelError(f"layers {sorted(set(layers))}: {self.name} has layers 0 to {n_layers - 1}")
        if hasattr(self, "methods"):
            check_methods(self.methods, self.known_methods)
        if not self.seeds:
            raise sl.MeasureError("--seeds names no seed; expected one or more, 0,1,2")
        if self.data is not None and self.is_toy:
            raise sl.PairsError(
                f"--data {self.data}: the toy model is asked in its own world's pairs; leave --data out"
            )
        if self.data is not None and not (self.data / "bipo").is_dir():
            raise sl.PairsError(
                f"--data {self.data}: there is no folder {self.data / 'bipo'}; expected the one that holds bipo/"
            )
        for behaviour in self.behaviours_used:
            self.pairs(behaviour)

    @property
    def behaviours_used(self) -> tuple[str, ...]:
        """The behaviours whose pairs the study needs."""
        named = (self.behaviour, getattr(self, "other", self.behaviour), *getattr(self, "behaviours", ()))
        return tuple(dict.fromkeys(named))

    @property
    def known_methods(self) -> tuple[str, ...]:
        """What `methods` may name, in a study that has them."""
        return METHODS

    @property
    def other_models(self) -> tuple[str, ...]:
        """The models that the study loads besides its own."""
        return ()

    @property
    def is_toy(self) -> bool:
        """Whether the model is one of the laboratory's."""
        return self.model.split("/")[0] == "toy"

    def bipo_options(self) -> dict[str, Any]:
        """Keyword arguments of `sl.train_bipo` for the model."""
        return {"lr": self.preset.lr, "max_steps": self.preset.steps}


@dataclass(frozen=True)
class Finding:
    """What a study found, beside what was published."""

    study: str
    title: str
    item: str
    """the paper's item, "BiPO F4" """
    published: str
    found: Sequence[str]
    """sentences with the numbers, made from the results"""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, config: StudyConfig, seconds: float, *, made_with: Mapping[str, Any] | None = None) -> Path:
        """Write figures (HTML, JSON, PDF), tables (CSV, LaTeX) and finding.json to the study's folder; returns it."""
        folder = study_folder(config, self.study)
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
            figure.write_json(folder / f"{name}.json")
        self._write_pdfs(folder)
        for name, table in self.tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            latex = table.to_latex(index=False, escape=True, float_format=lambda x: f"{x:.3g}")
            (folder / f"{name}.tex").write_text(latex)
        told = {key: getattr(self, key) for key in ("study", "title", "item", "published")}
        told |= {"found": list(self.found), "figures": list(self.figures), "tables": list(self.tables)}
        told |= {"seconds": round(seconds, 1), "config": plain_config(config), "made with": made_with}
        with whole_file(folder / "finding.json", sl.SteerLensError) as partial:
            partial.write_text(json.dumps(told, indent=1))
        return folder

    def _write_pdfs(self, folder: Path) -> None:
        """All figures by one browser: its start takes longer than a figure."""
        printed = [for_print(figure, columns=2) for figure in self.figures.values()]
        try:
            import kaleido

            specs = [
                {"fig": figure.to_dict(), "path": folder / f"{name}.pdf",
                 "opts": {"format": "pdf", "width": figure.layout.width, "height": figure.layout.height}}
                for name, figure in zip(self.figures, printed, strict=True)
            ]  # fmt: skip
            kaleido.write_fig_from_object_sync(specs, kopts=offline())
        except Exception as error:  # no browser, no kaleido: both raise many kinds
            print(
                f"no PDF of {', '.join(self.figures)} ({type(error).__name__}): they take kaleido and Chrome or Chromium"
            )


C = TypeVar("C", bound=StudyConfig)


def _with_val(pairs: sl.PreferencePairs) -> sl.PreferencePairs:
    """Published sets have no validation part: a sixth of the training part becomes one."""
    if len(pairs.val):
        return pairs
    train, val, _ = pairs.train.split(seed=0, val=1 / 6, test=0)
    return joined(train, val, pairs.test)


def joined(train: sl.PreferencePairs, val: sl.PreferencePairs, test: sl.PreferencePairs) -> sl.PreferencePairs:
    """Three parts as one set of pairs."""
    parts = (("train", train), ("val", val), ("test", test))
    rows = [(pair, name) for name, part in parts for pair in part]
    return sl.PreferencePairs(
        [pair.prompt for pair, _ in rows],
        [pair.chosen for pair, _ in rows],
        [pair.rejected for pair, _ in rows],
        train.template,
        train.system_prompt,
        provenance=train.provenance,
        splits=[name for _, name in rows],  # type: ignore[misc]
    )


def study_folder(config: StudyConfig, study: str) -> Path:
    """Where a study of that model and behaviour puts its files."""
    return config.out / config.name.replace("/", "-") / f"{study}-{config.behaviour}"


def store_of(config: StudyConfig) -> Store:
    """The finished cells of all studies of a model."""
    return Store(study_folder(config, "x").parent / "store")


def main(run: Callable[[C], Finding], config: type[C], arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run the study, write and print what it found."""
    module = typing.cast(Any, __import__("sys")).modules[run.__module__]
    asked = from_command_line(config, str(module.__doc__), arguments)
    started = time.perf_counter()
    try:
        asked.check()
        finding = run(asked)
    except sl.SteerLensError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    seconds = time.perf_counter() - started
    folder = finding.write(asked, seconds, made_with={"versions": library_versions()})
    print(f"{finding.title} ({finding.item})\npublished: {finding.published}")
    print("\n".join(f"found: {sentence}" for sentence in finding.found))
    print(f"{seconds:.0f} s; figures and tables in {folder}")


def from_command_line(config: type[C], doc: str, arguments: Sequence[str] | None = None) -> C:
    """A Config from options of its fields' names; tuples take commas."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = typing.get_type_hints(config)
    for entry in dataclasses.fields(config):
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            default=entry.default,
            type=_reader(kinds[entry.name]),
            help="default: %(default)s",
        )
    return config(**vars(parser.parse_args(arguments)))


def _reader(kind: Any) -> Callable[[str], Any]:
    """How a field's text is read: by its type, without None; a tuple by its items'."""
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        item = _reader(typing.get_args(kind)[0])
        return lambda text: tuple(item(part) for part in text.split(",") if part)
    if typing.get_origin(kind) is typing.Literal:
        return str
    return kind


def plain_config(config: StudyConfig) -> dict[str, Any]:
    """A Config's fields as JSON has them."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}


def weights_of(model: Any) -> tuple[float, ...]:
    """What tells a model's weights apart, for the settings of a store's cells: a name may come to mean other weights."""
    return identify(model).fingerprint


def with_interval(mean: float, low: float, high: float, digits: int = 2) -> str:
    """A mean with its interval, as sentences have it."""
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def over_multipliers(multipliers: Sequence[float], change: Any, low: Any, high: Any) -> str:
    """One vector's change from the unsteered model at every other multiplier, with intervals, as sentences have it."""
    at = [(j, m) for j, m in enumerate(multipliers) if m]
    return ", ".join(f"{m:+g}: {with_interval(change[j], low[j], high[j], 3)}" for j, m in at)
