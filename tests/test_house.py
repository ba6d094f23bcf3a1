"""The house: imports point one way, names are the five nouns, options have names, errors are ours. Read from the source."""

import ast
import builtins
import graphlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import steerlens
from steerlens import SteeringVector, SteerLensError, errors
from steerlens.pairs import preference as pairs
from steerlens.pairs import questions
from steerlens.results.result import Result

ROOT = Path(steerlens.__file__).parent
LONGEST = 330  # lines of a file; style.md aims at 250

# Each room, the first part of a module's path, and the rooms that it may stand on.
_GROUND = {"errors", "files", "checks", "_stats"}
STANDS_ON: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "checks": {"errors"},
    "_stats": {"errors", "checks"},
    "toy": _GROUND,
    "text": _GROUND,
    "models": _GROUND | {"toy", "text"},
    "pairs": _GROUND | {"toy", "text"},
    "vectors": _GROUND | {"text", "models", "pairs"},
    "forward": _GROUND | {"text", "models", "pairs", "vectors"},
    "generation": _GROUND | {"text", "models", "pairs", "vectors", "forward"},
    "results": _GROUND | {"models", "vectors"},  # a result's file may hold vectors
}
STANDS_ON["methods"] = set(STANDS_ON)
STANDS_ON["measures"] = set(STANDS_ON) - {"methods"}
STANDS_ON["comparison"] = set(STANDS_ON) - {"toy"}
STANDS_ON["figures"] = _GROUND | {
    "vectors",
    "results",
    "measures",
    "comparison",
}  # for the results that are defined there
STANDS_ON["widgets"] = set(STANDS_ON) - {"methods"}  # the one room that both generates and draws
STANDS_ON[""] = set(STANDS_ON)  # the façade
# Conveniences that reach up, inside a function and at the call only: vector.save, result.figure, comparison.save.
REACHES_UP = {
    ("vectors.vector", "vectors.files"),
    ("results.result", "figures"),
    ("comparison.comparison", "figures.report"),
    ("measures.inspection", "figures.inspection"),
    ("measures.projection", "figures.strips"),
    ("measures.projection", "figures.tokens"),
}
# Files that run TransformerLens's code; any other may name HookedTransformer in annotations, and nothing more.
RUNS_TRANSFORMER_LENS = {
    "models.load",
    "models.families",
    "models.sources",
    "forward.steer",
    "forward.parts",
    "forward.readout",
    "forward.packed_route",
    "forward.hooked_route",
    "generation.generate",
    "generation.live",
}
OPTIONAL = {
    "gguf",
    "peft",
    "sklearn",
    "kaleido",
    "choreographer",
    "ipywidgets",
    "IPython",
    "openai",
    "dask",
    "distributed",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def room(module: str) -> str:
    found = module.split(".")[0]
    assert found in STANDS_ON, f"steerlens.{module} is in no known room: give it one in tests/test_house.py"
    return found


def imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(module, names, whether inside a function) of every import that runs; those for type checkers alone don't."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    in_functions = {id(inner) for node in functions(tree) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module or "", tuple(alias.name for alias in node.names), id(node) in in_functions
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), id(node) in in_functions


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def own_imports(module: str) -> Iterator[tuple[str, bool]]:
    """The modules of ours that a module imports; `from steerlens import errors` is one of them."""
    for target, names, late in imports(TREES[module]):
        if target == "steerlens" or target.startswith("steerlens."):
            short = target.removeprefix("steerlens").removeprefix(".")
            inner = [f"{short}.{name}".removeprefix(".") for name in names]
            for found in [name for name in inner if name in MODULES] or [short]:
                yield found, late


# -- imports ----------------------------------------------------------------------------------------------------------


def test_a_module_imports_from_its_own_room_and_those_below() -> None:
    too_high = [
        f"steerlens.{module} ({room(module)}) imports steerlens.{target} ({room(target)})"
        for module in MODULES
        for target, late in own_imports(module)
        if room(target) not in STANDS_ON[room(module)] | {room(module)}
        and not (late and (module, target) in REACHES_UP)
    ]
    assert too_high == []


def test_the_root_holds_what_every_room_stands_on_and_nothing_else() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "errors", "files", "_stats"}


def test_no_room_stands_on_one_that_stands_on_it() -> None:
    order = list(graphlib.TopologicalSorter(STANDS_ON).static_order())
    assert order.index("methods") < order.index("comparison") < order.index("figures")
    assert "measures" not in STANDS_ON["methods"]
    assert "methods" not in STANDS_ON["measures"]


def test_no_module_imports_one_that_imports_it() -> None:
    graph = {name: {target for target, late in own_imports(name) if not late} - {name} for name in MODULES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(MODULES)


def test_every_exception_in_the_tables_is_still_needed() -> None:
    late = {(module, target) for module in MODULES for target, is_late in own_imports(module) if is_late}
    assert late >= REACHES_UP
    for module in RUNS_TRANSFORMER_LENS:
        assert any(target.split(".")[0] == "transformer_lens" for target, _, _ in imports(TREES[module])), module


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            yield node.returns
        elif isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            yield node.annotation


def test_other_modules_name_hooked_transformer_in_annotations_only() -> None:
    for module in sorted(set(MODULES) - RUNS_TRANSFORMER_LENS):
        tree = TREES[module]
        named = [names for target, names, _ in imports(tree) if target.split(".")[0] == "transformer_lens"]
        if named:
            assert named == [("HookedTransformer",)], f"steerlens.{module}"
            low = (*_GROUND, "text", "pairs", "vectors", "results", "figures")
            assert room(module) not in low, f"steerlens.{module}"
        in_annotations = {id(inner) for annotation in annotations(tree) for inner in ast.walk(annotation)}
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "HookedTransformer"]
        assert all(id(node) in in_annotations for node in used), f"steerlens.{module}"


def test_optional_packages_are_imported_where_they_are_used_only() -> None:
    early = {
        f"steerlens.{module} imports {target}"
        for module, tree in TREES.items()
        for target, _, late in imports(tree)
        if not late and target.split(".")[0] in OPTIONAL
    }
    assert early == set()


def test_importing_the_package_says_nothing_and_warns_of_nothing() -> None:
    torch_s = (
        "ignore:Implicitly cleaning up:ResourceWarning"  # torch 2.6 leaves a temporary folder to the interpreter's end
    )
    command = [sys.executable, "-W", "error", "-W", torch_s, "-c", "import steerlens"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_short_and_says_what_it_is() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: n for module, n in lines.items() if n > LONGEST} == {}
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []
    assert [module for module in MODULES if set(module.split(".")) & {"utils", "helpers", "misc", "common"}] == []


# -- names ------------------------------------------------------------------------------------------------------------


PAIRS = (
    pairs.PreferencePair,
    pairs.PreferencePairs,
    questions.ChoiceLayout,
    questions.ChoiceQuestion,
    questions.ChoiceQuestions,
)


def is_one_of_the_nouns(name: str, thing: Any) -> bool:
    """Pair or question, Vector, method, measure (or its result), loader, error; or steering, generating and trying by hand."""
    if inspect.isclass(thing):
        return issubclass(thing, (*PAIRS, SteeringVector, Result, SteerLensError))
    module = thing.__module__.removeprefix("steerlens.")
    gives = inspect.signature(thing).return_annotation
    return (
        room(module) in ("methods", "measures")
        or name.startswith("load_")
        or name in ("steer", "generate", "datasets", "playground", "report")
        or (inspect.isclass(gives) and issubclass(gives, Result))
    )


def test_an_exported_name_is_one_of_the_nouns_and_explains_itself() -> None:
    for name in steerlens.__all__:
        thing = getattr(steerlens, name)
        assert is_one_of_the_nouns(name, thing), name
        assert thing.__doc__, name
        first = inspect.cleandoc(thing.__doc__).split("\n\n")[0]
        assert first.rstrip().endswith((".", "`", ":")), name
        assert not first.startswith(f"{name}("), name  # what a dataclass writes where there is no docstring


def test_the_exported_names_are_sorted_and_complete() -> None:
    assert steerlens.__all__ == sorted(steerlens.__all__)
    assert len(set(steerlens.__all__)) == len(steerlens.__all__)
    imported = {name for target, names, _ in imports(TREES[""]) if target.startswith("steerlens.") for name in names}
    assert imported == set(steerlens.__all__)


def test_the_facades_docstring_teaches_the_five_nouns_with_names_that_exist() -> None:
    text = inspect.cleandoc(steerlens.__doc__ or "")
    assert [noun for noun in ("Pair", "Vector", "Method", "Measure", "Figure") if f"**{noun}**" not in text] == []
    called = {word.split("(")[0] for word in text.replace("\n", " ").split("sl.")[1:]}
    assert called <= set(steerlens.__all__)
    assert len(called) >= 6


# -- signatures -------------------------------------------------------------------------------------------------------


def public_functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    is_private = module.rpartition(".")[2].startswith("_")  # then only what the façade exports is public
    for node in TREES[module].body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if is_private and node.name not in steerlens.__all__:
            continue
        if isinstance(node, ast.FunctionDef):
            yield node
        else:
            yield from (f for f in functions(node) if not f.name.startswith("_") or f.name == "__init__")


def every_public_function() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in MODULES:
        yield from ((f"{module}.{f.name}", f) for f in public_functions(module))


def test_no_public_function_swallows_a_misspelt_option() -> None:
    assert [name for name, f in every_public_function() if f.args.kwarg is not None] == []


def test_options_have_names() -> None:
    for name in steerlens.__all__:
        if isinstance(getattr(steerlens, name), type):
            continue
        parameters = inspect.signature(getattr(steerlens, name)).parameters.values()
        by_place = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        optional = [p.name for p in by_place if p.default is not p.empty]
        # A multiplier (or several) and positions, or a sign and beta, may be given by place: the contract writes them so.
        assert set(optional) <= {"name", "multiplier", "multipliers", "positions", "sign", "beta"}, name
        assert len(by_place) - len(optional) <= 4, name
        assert all(p.annotation is not p.empty for p in parameters), name


def test_one_term_per_thing() -> None:
    odd = {"coeff", "coefficient", "strength", "scale", "layer_idx", "layer_index", "hidden_size", "vocab_size"}
    arguments = [(name, arg.arg) for name, f in every_public_function() for arg in (*f.args.args, *f.args.kwonlyargs)]
    assert [f"{name}({argument})" for name, argument in arguments if argument in odd] == []


def test_every_function_is_annotated() -> None:
    bare = [
        f"{module}.{f.name}"
        for module, tree in TREES.items()
        for f in functions(tree)
        if f.returns is None or any(a.annotation is None for a in f.args.args if a.arg not in ("self", "cls"))
    ]
    assert bare == []


# -- errors -----------------------------------------------------------------------------------------------------------

OURS = {name for name, thing in vars(errors).items() if inspect.isclass(thing)}


def test_every_error_is_a_steer_lens_error_and_exported() -> None:
    assert all(issubclass(getattr(errors, name), SteerLensError) for name in OURS)
    assert set(steerlens.__all__) >= OURS
    assert all(getattr(errors, name).__doc__ for name in OURS)


def test_errors_are_defined_in_one_place() -> None:
    exceptions = {
        name for name, thing in vars(builtins).items() if inspect.isclass(thing) and issubclass(thing, BaseException)
    }
    elsewhere = [
        f"{module}.{node.name}"
        for module, tree in TREES.items()
        if module != "errors"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")  # a private one is caught where it is raised
        and {ast.unparse(base).split(".")[-1] for base in node.bases} & (exceptions | OURS)
    ]
    assert elsewhere == []


def is_private_and_caught(name: str, tree: ast.Module) -> bool:
    handlers = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is not None]
    return name.startswith("_") and any(name in ast.unparse(caught) for caught in handlers)


def raised_to_the_caller(tree: ast.Module) -> set[str]:
    """The exceptions that a module raises and doesn't catch a few lines below, to raise them again as ours."""
    caught = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and node.handlers
        for statement in node.body
        for inner in ast.walk(statement)
    }
    raised = {
        ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in caught
    }
    return {name for name in raised if not is_private_and_caught(name, tree)}


def test_what_is_raised_is_ours() -> None:
    # __getitem__, __getattr__ and abstract methods speak Python's own language; `error` is one caught before.
    allowed = OURS | {"IndexError", "KeyError", "AttributeError", "NotImplementedError", "StopIteration", "error"}
    foreign = {module: raised_to_the_caller(tree) - allowed for module, tree in TREES.items()}
    assert {module: names for module, names in foreign.items() if names} == {}


def test_no_public_function_asserts_on_what_a_user_gave() -> None:
    asserting = [name for name, f in every_public_function() if any(isinstance(n, ast.Assert) for n in ast.walk(f))]
    assert asserting == []


# -- promises ---------------------------------------------------------------------------------------------------------


def test_every_test_that_a_promise_names_is_there() -> None:
    text = (ROOT.parent / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 15
    for file, test in named:
        source = (ROOT.parent / file).read_text()
        assert not test or f"def {test}(" in source, f"{file}::{test}"
    rows = [line for line in text.splitlines() if line.startswith("| ") and "promise | test" not in line]
    assert all("`tests/" in row.split("|")[2] for row in rows)
