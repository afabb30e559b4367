"""Ctrl-C in the middle of a training: no further pass runs, and the resumed training has the bits of an undisturbed one."""

import pytest

from lightnas_edge.errors import RunError
from lightnas_edge.nn.checkpoint import load_checkpoint
from tests.interruption import interrupt
from tests.train.test_train_network import CONFIG, left_behind, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, CONFIG)
    return folder


@pytest.mark.parametrize(
    ("at", "saved"),
    [
        (3, (0, 2)),  # 4 passes of training in an epoch: the third has changed running statistics and random numbers
        (6, (0, 4)),  # then 2 of validation
        (8, (1, 1)),
    ],
)
def test_ctrl_c_abandons_a_pass_and_loses_nothing(whole, tmp_path, at, saved):
    setup = (
        "import pathlib\n"
        "from lightnas_edge.nn import Network\n"
        "from tests.train.test_train_network import CONFIG, train\n"
    )  # fmt: skip
    run = f"train(pathlib.Path({str(tmp_path)!r}), CONFIG)"

    assert interrupt(setup, run, "Network", "forward", at) == at
    state = load_checkpoint(tmp_path / "train" / "checkpoint.pt", schema=2)
    assert (state["epoch"], state["step"]) == saved
    train(tmp_path, CONFIG)

    assert left_behind(whole) == left_behind(tmp_path)


def test_a_training_is_not_continued_with_other_pixels(whole, monkeypatch):
    """As after an update that augments differently."""
    monkeypatch.setattr("lightnas_edge.data.dataset.PIXELS", 1000)

    with pytest.raises(RunError, match=r"other settings\n  pixels: was \d+, now 1000"):
        train(whole, CONFIG)
