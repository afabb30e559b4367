"""Ctrl-C in the middle of a step: no further pass runs, and the resumed search has the bits of an undisturbed one."""

import dataclasses

import pytest

from lightnas_edge.errors import RunError
from lightnas_edge.nn.checkpoint import load_checkpoint
from lightnas_edge.search.state import SCHEMA
from tests.interruption import interrupt
from tests.search.problems import CONFIG
from tests.search.test_run_search import assert_same, outcome, search

# Passes of the supernet: 48 in the warm-up (4 steps of 3 paths and 4 micro-batches), then in every epoch 16 of weights and
# 16 of the architecture (as published 4), then those that compare candidates.
SPLIT = dataclasses.replace(CONFIG, micro_batches=4, candidates=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Searches that were never interrupted."""
    folders = {}
    for method in ("shared", "lightnas"):
        folders[method] = tmp_path_factory.mktemp(method)
        search(folders[method], config=dataclasses.replace(SPLIT, method=method))
    return folders


def interrupt_search(folder, method, owner, name, at):
    setup = (
        "import dataclasses, pathlib\n"
        "from lightnas_edge.data.images import ArrayImages\n"
        "from lightnas_edge.nn import Supernet\n"
        "from tests.search.test_interruption import SPLIT, search\n"
    )
    run = f"search(pathlib.Path({str(folder)!r}), config=dataclasses.replace(SPLIT, method={method!r}))"
    calls = interrupt(setup, run, owner, name, at)
    state = load_checkpoint(folder / "search" / "checkpoint.pt", schema=SCHEMA)
    return calls, (state["epoch"], state["phase"], state["step"])


@pytest.mark.parametrize(
    ("method", "at", "saved"),
    [
        ("shared", 17, (0, "warmup", 1)),
        ("shared", 54, (1, "weights", 1)),
        ("shared", 71, (1, "architecture", 1)),
        ("lightnas", 67, (1, "architecture", 2)),
        ("shared", 147, (4, "weights", 0)),  # while candidates are compared
    ],
)
def test_ctrl_c_abandons_a_step_between_its_passes_and_loses_nothing(whole, tmp_path, method, at, saved):
    assert interrupt_search(tmp_path, method, "Supernet", "forward", at) == (at, saved)

    search(tmp_path, config=dataclasses.replace(SPLIT, method=method))

    assert_same(outcome(whole[method]), outcome(tmp_path))


def test_ctrl_c_ends_the_loading_of_a_batch(whole, tmp_path):
    """Image 21 belongs to the second batch of the warm-up: the first step is kept."""
    assert interrupt_search(tmp_path, "shared", "ArrayImages", "image", 21) == (21, (0, "warmup", 1))

    search(tmp_path, config=SPLIT)

    assert_same(outcome(whole["shared"]), outcome(tmp_path))


def test_a_search_is_not_continued_with_other_pixels(whole, monkeypatch):
    """As after an update that augments differently; budgets can still be added, since nothing is trained for them."""
    monkeypatch.setattr("lightnas_edge.data.dataset.PIXELS", 1000)

    with pytest.raises(RunError, match=r"other settings\n  pixels: was \d+, now 1000"):
        search(whole["shared"], config=SPLIT)
