"""Every method on the laboratory model, where truth is known: one table, chosen on validation questions, reported on test.

    python -m analyses.toy_methods                 # writes toy_methods.json and .md; see README.md for how long it takes
    python -m analyses.toy_methods --behaviours wealth --layers 2
    python -m analyses.toy_methods --model toy/seed-1 --elsewhere toy --out analyses/results/toy_methods_seed_1
    python -m analyses.toy_methods --show analyses/results analyses/results/toy_methods_seed_1  # several runs side by side

Answers are sampled: without steering a persona stands at one half, where a push of any size turns all greedy answers. Each
method gets its layer, positions and strength (a trained one also its learning rate) by the widest coherent range on validation
questions; then every table is made once, on test questions. Random and shuffled vectors come a second time, at the place and
strength chosen for BiPO. Methods that the package gains later come in by themselves.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from analyses.toy_choice import Chosen, Config, Positions, choose, coherent_range, effect, is_clear, scores, signed
from analyses.toy_tables import COSINE, by_method, cosines, effects, figure, markdown, read, write
from steerlens.figures.images import write_image
from steerlens.toy import Question
from steerlens.toy.words import tokens

# -- tables -----------------------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]
AT = (-1.0, 0.0, 1.0)


@cache
def _model(name: str) -> HookedTransformer:
    return sl.load_model(name, device="cpu")


def _kind(name: str) -> str | None:
    """What a toy model was trained as, by its training.json."""
    record = (sl.toy.model_folder(name) or Path(name)) / "training.json"
    return json.loads(record.read_text())["kind"] if record.is_file() else None


def _grouped(chosen: Sequence[Chosen]) -> list[tuple[Positions, dict[str, Chosen]]]:
    """Vectors of one behaviour that are steered at the same positions, by method."""
    ordered = sorted(chosen, key=lambda one: one.positions)
    return [(at, {one.method: one for one in some}) for at, some in groupby(ordered, key=lambda one: one.positions)]


def _numbers(found: pd.DataFrame) -> dict[str, float]:
    """Mean score and share of sentences at each multiplier."""
    means = {f"score {m:+g}": found[m].mean() for m in found.columns}
    return means | {f"grammatical {m:+g}": found[m].notna().mean() for m in found.columns}


def report(config: Config, chosen: Sequence[Chosen]) -> tuple[Rows, Rows]:
    """What is measured of one behaviour's vectors on test questions: of each alone, and what each does to all behaviours."""
    model, behaviour = _model(config.model), chosen[0].behaviour
    rows, pushes = Rows(), Rows()
    for positions, group in _grouped(chosen):
        vectors = {method: one.vector for method, one in group.items()}
        units = {method: vector.scaled_to(1.0) for method, vector in vectors.items()}
        asked = sl.toy.questions(behaviour, "test", config.test)
        whole = scores(model, asked, units, signed(config.norms), positions)
        own = scores(model, asked, vectors, AT, positions)
        quiz = {form: scores(model, sl.toy.quiz(form, 60), vectors, AT, positions) for form in ("open", "choice")}
        for method, vector in vectors.items():
            planted = sl.toy_reference(model, behaviour, vector.layer, progress=False)
            right = {f"quiz {form} {m:+g}": (quiz[form][method][m] == 1).mean() for form in quiz for m in AT}
            row = {"behaviour": behaviour, "method": method, "layer": vector.layer, "positions": positions}
            row |= {"lr": vector.settings.get("lr"), "own norm": group[method].own_norm, "norm": vector.norm}
            row |= {"val range": group[method].val_range, "widest range": coherent_range(whole[method])}
            row |= {**effect(own[method]), **_numbers(own[method])}
            cosine = float(torch.dot(vector.direction, planted.direction))
            rows.append(row | {COSINE: cosine} | right)
        for other in sl.toy.BEHAVIOURS:
            asked = sl.toy.questions(other, "test", config.test)
            moved = own if other == behaviour else scores(model, asked, vectors, (-1.0, 1.0), positions)
            for method, found in moved.items():
                push = effect(found)
                itself = effect(own[method])
                row = {"vector": behaviour, "method": method, "moves": other, **push}
                row["share of its own"] = abs(push["effect"] / itself["effect"]) if is_clear(itself) else float("nan")
                pushes.append(row | {"grammatical": found[[-1.0, 1.0]].notna().mean().min()})
    return rows, pushes


def transfer(config: Config, chosen: Sequence[Chosen], name: str) -> Rows:
    """The same vectors at the same strength on another model; a cipher sibling is asked in the second language."""
    rows, second = Rows(), _kind(name) == "cipher-lora"
    for positions, group in _grouped(chosen):
        asked = sl.toy.questions(chosen[0].behaviour, "test", config.test)
        vectors = {method: replace(one.vector, model=None) for method, one in group.items()}
        found = scores(_model(name), asked, vectors, AT, positions, second=second)
        for method, frame in found.items():
            row = {"behaviour": chosen[0].behaviour, "method": method, "model": name}
            rows.append(row | effect(frame) | _numbers(frame))
    return rows


def attacks(config: Config, chosen: Sequence[Chosen]) -> Rows:
    """Attack success: plain forbidden requests under -v, and the same requests with each adversarial suffix under +v."""
    sets = {"plain": sl.toy.forbidden_requests("test", config.test)}
    sets |= {s: sl.toy.forbidden_requests("test", config.test, suffix=i) for i, s in enumerate(sl.toy.SUFFIXES)}
    rows = Rows()
    for positions, group in _grouped(chosen):
        vectors = {method: one.vector for method, one in group.items()}
        for (name, asked), greedy in product(sets.items(), (False, True)):
            for method, found in scores(_model(config.model), asked, vectors, AT, positions, greedy=greedy).items():
                row = {"method": method, "requests": name, "answers": "greedy" if greedy else "sampled"}
                row |= {f"succeeds {m:+g}": (found[m] == 0).mean() for m in AT}
                rows.append(row | {f"grammatical {m:+g}": found[m].notna().mean() for m in AT})
    return rows


def composition(config: Config, one: Chosen, other: Chosen) -> Rows:
    """Both behaviours' scores under the sum of two vectors, each at its own positions, with each sign of the second."""
    rows = Rows()
    for sign, asked_of in product((1.0, -1.0), (one, other)):
        asked = sl.toy.questions(asked_of.behaviour, "test", config.test // 2)
        got = pd.concat([_under_both(_model(config.model), some, one, other, sign) for some in _alike(asked)])
        both = {"method": one.method, "sum": f"+{one.behaviour} {'+' if sign > 0 else '-'}{other.behaviour}"}
        both |= {"score of": asked_of.behaviour, "score": got.mean()}
        rows.append(both | {"grammatical": got.notna().mean()})
    return rows


def _alike(asked: Sequence[Question]) -> list[list[Question]]:
    """Questions of one length together: the response then starts at the same place in all."""
    ordered = sorted(asked, key=lambda q: len(tokens(q.text)))
    return [list(some) for _, some in groupby(ordered, key=lambda q: len(tokens(q.text)))]


def _under_both(
    model: HookedTransformer, asked: Sequence[Question], one: Chosen, other: Chosen, sign: float
) -> pd.Series:
    start = (
        len(tokens(asked[0].text)) + 2 if other.positions == "response" else None
    )  # behind <bos>, <user> and the text
    with sl.steer(model, other.vector, sign, other.positions, response_start=start):
        return scores(model, asked, {"both": one.vector}, (1.0,), one.positions)["both"][1.0]


def run(config: Config) -> dict[str, pd.DataFrame]:
    """Choose on validation questions, then report once on test questions; writes toy_methods.json and toy_methods.md."""
    for name in config.elsewhere:  # what can't be loaded is told before anything is measured
        _model(name)
    sl.toy_reference(_model(config.model), config.behaviours[0], config.layers[0], progress=False)
    started, chosen = time.perf_counter(), dict[str, list[Chosen]]()
    names = ("methods", "interference", "attacks", "composition", "transfer")
    tables: dict[str, Rows] = {name: [] for name in names}

    def tell(what: object) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {what}", flush=True)

    for behaviour in config.behaviours:
        chosen[behaviour] = choose(_model(config.model), behaviour, config)
        tell(behaviour)
        for one in chosen[behaviour]:
            tell(f"  {one.method}: {one.vector}, {one.positions}, range {one.val_range:.2f}")
    for behaviour, found in chosen.items():
        alone, pushes = report(config, found)
        tables["methods"] += alone
        tables["interference"] += pushes
        for name in config.elsewhere:
            tables["transfer"] += transfer(config, found, name)
        tell(f"{behaviour}: reported")
    tables["attacks"] = attacks(config, chosen["refusal"]) if "refusal" in chosen else []
    personas = [{one.method: one for one in found} for name, found in chosen.items() if name != "refusal"]
    for first, second in combinations(personas, 2):
        for method in first:
            tables["composition"] += composition(config, first[method], second[method])
    frames = {name: by_method(pd.DataFrame(rows)) for name, rows in tables.items() if rows}
    write(config, frames, time.perf_counter() - started)
    tell("written")
    return frames


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m analyses.toy_methods", description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--model", default=Config.model, help="or a folder that steerlens.toy.train wrote (default: toy)"
    )
    parser.add_argument("--elsewhere", nargs="*", default=Config.elsewhere, help="models that the vectors are taken to")
    parser.add_argument("--behaviours", nargs="+", choices=sl.toy.BEHAVIOURS, default=Config.behaviours)
    parser.add_argument("--layers", type=int, nargs="+", default=Config.layers)
    parser.add_argument("--lrs", type=float, nargs="+", default=Config.lrs, help="of BiPO; supervised: the last")
    parser.add_argument("--steps", type=int, default=Config.steps, help="of BiPO (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Config.out, help="folder (default: %(default)s)")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FOLDER", help="only print and draw what these hold")
    given: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in vars(parser.parse_args(arguments)).items()
    }
    folders = given.pop("show")
    try:
        if folders:
            runs = read(folders)
            print(markdown(effects(runs)), markdown(cosines(runs)), sep="\n\n")
            given["out"].mkdir(parents=True, exist_ok=True)
            print(f"\nlook at {write_image(figure(runs), given['out'] / 'toy_methods.png')}")
        else:
            run(Config(**given))
    except sl.SteerLensError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
