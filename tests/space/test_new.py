"""A space file from a few numbers: read back, measured in shapes, and refused before anything is written."""

import tomllib

import pytest

from lightnas_edge.cli import main
from lightnas_edge.errors import SpaceError
from lightnas_edge.space import Space, load_space
from lightnas_edge.space.new import NewSpace, as_toml


def space_of(**wanted):
    return Space.from_json(tomllib.loads(as_toml(NewSpace(**{"name": "mine", "classes": 4, **wanted}))))


@pytest.mark.parametrize("side", [8, 31, 32, 63, 64, 96, 128, 160, 224, 320])
def test_every_input_size_gives_a_space_that_ends_in_small_maps(side):
    space = space_of(input_size=side)

    assert (space.input_size, space.classes) == (side, 4)
    assert 1 <= space.head.input_size <= 10
    assert len(space.layers) >= 8


def test_the_space_of_224_pixels_has_the_layers_of_the_published_one():
    assert space_of(input_size=224).layers == load_space("lightnas").layers


def test_depths_and_widths_are_taken_as_given():
    space = space_of(input_size=96, depths=(1, 2), widths=(8, 12), operators=("mbconv_k3_e2", "skip"))

    assert [(layer.out_channels, layer.stride) for layer in space.layers] == [(8, 2), (12, 2), (12, 1)]
    assert [operator.name for operator in space.operators] == ["mbconv_k3_e2", "skip"]


def test_a_name_is_text_and_nothing_else():
    with pytest.raises(SpaceError, match=r"1 fault\n  name: expected up to 64 letters"):
        space_of(input_size=32, name='a"]\nclasses = 7 #')


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"depths": (1, 2), "widths": (8,)}, "1 widths and 2 depths"),
        ({"depths": (1,) * 6}, "6 stages, and only 5 have a default"),
        ({"widths": (0, 8)}, "every width and depth is at least 1"),
    ],
)
def test_numbers_that_make_no_space_are_refused(wanted, fault):
    with pytest.raises(SpaceError, match=fault):
        as_toml(NewSpace("mine", 96, 4, **wanted))


def test_the_command_writes_a_file_that_show_reads(tmp_path, capsys):
    file = tmp_path / "mine.toml"

    assert main(["space", "new", str(file), "--input-size", "32", "--classes", "5"]) == 0
    assert "# stage 1: 2 layers of 24 channels on 8x8 maps" in file.read_text()
    capsys.readouterr()
    assert main(["space", "show", str(file)]) == 0

    shown = capsys.readouterr().out
    assert "mine: 8 searchable layers x 7 operators" in shown
    assert "M multiply-accumulates" in shown and "with TensorRT" in shown


def test_a_file_that_exists_is_kept(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text("# by hand")

    assert main(["space", "new", str(file), "--input-size", "32", "--classes", "5"]) == 2

    assert file.read_text() == "# by hand"
    assert "exists" in capsys.readouterr().err


def test_nothing_is_written_for_a_space_that_cannot_be(tmp_path, capsys):
    file = tmp_path / "mine.toml"

    assert main(["space", "new", str(file), "--input-size", "32", "--classes", "5", "--operators", "conv"]) == 2

    assert not file.exists()
    assert "unknown operator name 'conv'" in capsys.readouterr().err


def test_the_table_of_a_space_adds_up(capsys):
    """The smallest and the largest network, against the costs of whole networks."""
    from lightnas_edge.space import Architecture
    from lightnas_edge.space.cost import macs_m

    space = load_space("tiny")
    assert main(["space", "show", "tiny"]) == 0

    smallest = macs_m(space, Architecture.from_indices(space, [3] * 8))
    largest = max(macs_m(space, Architecture.from_indices(space, [index] * 8)) for index in range(4))
    assert f"networks: {smallest:.3g} to {largest:.3g} M multiply-accumulates" in capsys.readouterr().out
