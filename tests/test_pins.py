"""What pyproject.toml promises of other packages: each import is declared, each range is held by both lists of versions."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTION = {"sklearn": "scikit-learn"}  # where the import's name is not the package's
OWN = {"steerlens", "analyses"}
TOOLS = {
    "llama_cpp",
    "repeng",
    "steering_vectors",
}  # what analyses/make_references.py compares with, asked for by its docstring


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in found}


CORE = requirements(PROJECT["dependencies"])
EXTRAS = {extra: requirements(lines) for extra, lines in PROJECT["optional-dependencies"].items()}
OPTIONAL = {name: one for extra in EXTRAS.values() for name, one in extra.items() if name != "steerlens"}


def pinned(file: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def imported(folder: str) -> Iterator[tuple[str, bool, Path]]:
    """(distribution, whether the import waits inside a function, file) of every import of someone else's package."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        late = {id(inner) for node in functions for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - OWN:
                yield canonicalize_name(DISTRIBUTION.get(name, name)), id(node) in late, path


def test_every_package_that_is_imported_is_declared() -> None:
    early = [(name, str(path)) for name, late, path in imported("steerlens") if not late and name not in CORE]
    assert early == []
    known = {*CORE, *OPTIONAL}
    anywhere = [(name, str(path)) for name, _, path in imported("steerlens") if name not in known]
    assert anywhere == []
    studies = [
        (name, str(path))
        for name, _, path in imported("analyses")
        if name not in known | set(map(canonicalize_name, TOOLS))
    ]
    assert studies == []


def test_every_package_that_is_declared_for_all_is_imported() -> None:
    assert set(CORE) - {name for name, _, _ in imported("steerlens")} == set()


def test_the_versions_that_make_installs_are_within_the_ranges() -> None:
    versions = pinned("constraints.txt")
    declared = {
        **CORE,
        **EXTRAS["dev"],
        **{name: one for name, one in OPTIONAL.items() if name not in EXTRAS["cluster"]},
    }
    for name, one in declared.items():
        if name != "steerlens":
            assert one.specifier.contains(versions[name], prereleases=True), (
                f"{one}: constraints.txt has {versions[name]}"
            )


def test_the_oldest_versions_are_the_lower_bounds_themselves() -> None:
    """So that `make test-oldest` runs what pyproject.toml promises."""
    versions = pinned("constraints-oldest.txt")
    for name, one in {**CORE, **OPTIONAL}.items():
        floors = [Version(bound.version) for bound in one.specifier if bound.operator == ">="]
        assert floors == [versions[name]], f"{one}: constraints-oldest.txt has {versions[name]}"


def test_make_asks_for_the_python_that_the_project_asks_for() -> None:
    asked = SpecifierSet(PROJECT["requires-python"])
    low, high = re.findall(r"\((\d+), (\d+)\)", re.search(r"assert (.*?),  *f\"", (ROOT / "Makefile").read_text())[1])
    assert asked == SpecifierSet(f">={'.'.join(low)},<{'.'.join(high)}")
