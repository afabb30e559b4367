"""A checkpoint is whole or refused: damage, other files and a full disk."""

import hashlib
import random

import pytest
import torch

from lightnas_edge.errors import RunError
from lightnas_edge.nn.checkpoint import load_checkpoint, require_same, save_checkpoint
from tests.mutations import mutated_bytes

STATE = {"schema": 1, "weights": torch.arange(4000.0), "epoch": 3}


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", STATE)
    return tmp_path / "checkpoint.pt"


def refusal(path):
    with pytest.raises(RunError) as caught:
        load_checkpoint(path, schema=1)
    assert str(path) in str(caught.value)
    assert "--fresh" in caught.value.hint
    return str(caught.value)


def test_what_is_saved_is_read_back_to_the_bit(path):
    state = load_checkpoint(path, schema=1)

    assert (state["schema"], state["epoch"]) == (1, 3)
    assert torch.equal(state["weights"], STATE["weights"])


@pytest.mark.parametrize("place", [0.0, 0.002, 0.004, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_found_anywhere(path, place, bit):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)

    assert "damaged" in refusal(path) or "is not a checkpoint" in refusal(path)


def test_every_bit_of_the_header_counts(path):
    whole = path.read_bytes()
    for place in range(len(b"lightnas-edge checkpoint\n") + 65):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        refusal(path)


@pytest.mark.parametrize("kept", [0, 10, 25, 60, 90, 91, 1000, -1])
def test_a_truncated_checkpoint_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])

    refusal(path)


def test_a_file_of_torch_without_the_header_is_no_checkpoint(path):
    torch.save(STATE, path)

    assert "is not a checkpoint" in refusal(path)


def test_another_schema_is_refused_with_both_numbers(path):
    with pytest.raises(RunError, match="has schema 1; this version reads schema 2"):
        load_checkpoint(path, schema=2)


def test_a_checkpoint_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "checkpoint.pt").mkdir()

    refusal(tmp_path / "checkpoint.pt")


def test_a_full_disk_is_named_and_the_earlier_checkpoint_is_kept(path):
    """`/dev/full` answers every write as a full disk does; the part of a new checkpoint is written there."""
    before = path.read_bytes()
    path.with_name("checkpoint.pt.part").symlink_to("/dev/full")

    with pytest.raises(RunError, match=r"cannot write .*checkpoint\.pt: the disk is full"):
        save_checkpoint(path, {**STATE, "epoch": 4})

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_other_settings_are_refused_by_name_and_equal_ones_are_not():
    require_same({"lr": 0.1, "paths": (1, 2)}, {"lr": 0.1, "paths": [1, 2]}, "the search")

    with pytest.raises(RunError, match=r"the search began with other settings\n  lr: was 0.1, now 0.2") as caught:
        require_same({"lr": 0.1, "batch": 8}, {"lr": 0.2, "batch": 8}, "the search")

    assert "batch" not in str(caught.value)


def test_whatever_a_checkpoint_with_the_right_checksum_holds_it_is_read_or_refused(path):
    """torch and its unpickler raise errors of many types, some of them without a text."""
    save_checkpoint(path, {"schema": 1, "weights": torch.zeros(3), "log": ["a", None, 1.5]})
    name, _, payload = path.read_bytes().split(b"\n", 2)
    generator = random.Random(0)
    outcomes = []
    for _ in range(300):
        damaged = mutated_bytes(payload, generator)
        path.write_bytes(b"\n".join([name, hashlib.sha256(damaged).hexdigest().encode(), damaged]))
        try:
            outcomes.append(load_checkpoint(path, schema=1)["schema"])
        except RunError as error:
            outcomes.append("refused")
            assert str(path) in str(error)

    assert outcomes.count("refused") > 100 and outcomes.count(1) > 20
