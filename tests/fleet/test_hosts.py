"""From `--host` to boards: lists, groups of boards.toml, and what names no board."""

import pytest

import devices
from devices import InventoryError
from lightnas_edge.fleet import chosen_hosts
from tests.cli.commands import run


@pytest.fixture
def inventory(tmp_path, monkeypatch):
    """boards.toml with a group."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = devices.inventory_path()
    path.parent.mkdir()
    path.write_text('[boards.orin1]\nhost = "192.0.2.1"\n[groups]\nshelf = ["orin1", "orin2"]\n')
    return path


def test_a_group_stands_for_its_boards_and_a_board_that_is_named_twice_counts_once(inventory):
    assert chosen_hosts(" orin3, shelf,orin1 ,") == ["orin3", "orin1", "orin2"]


@pytest.mark.parametrize("command", (("probe",), ("pull",), ("profile", "--space", "tiny"), ("verify", "nothing")))
@pytest.mark.parametrize("text", ("", ",", " , "))
def test_a_list_without_a_name_is_refused(inventory, command, text):
    answer = run(*command, "--host", text)

    assert answer.code == 2 and "names no board" in answer.err


def test_a_faulty_boards_toml_does_not_keep_this_machine_and_virtual_boards_from_measuring(inventory):
    inventory.write_text("[groups]\nshelf = 3\n")

    assert chosen_hosts("localhost,virtual:jetson-nano#2") == ["localhost", "virtual:jetson-nano#2"]
    with pytest.raises(InventoryError, match="expected a list of hosts"):
        chosen_hosts("shelf")


def test_a_command_for_one_board_names_the_boards_of_a_group(inventory):
    answer = run("field-test", "--host", "shelf")

    assert answer.code == 2 and "shelf is a group of 2 boards" in answer.err and "orin1, orin2" in answer.err


def test_no_group_is_called_localhost(inventory):
    inventory.write_text('[groups]\nlocalhost = ["orin1"]\n')

    with pytest.raises(InventoryError, match="means this machine"):
        devices.read_groups()


@pytest.mark.parametrize(
    ("command", "option"),
    (
        (("sample", "--space", "tiny", "--adaptive"), "--adaptive"),
        (("profile", "--model", "net.onnx"), "--model"),
    ),
)  # fmt: skip
def test_what_takes_one_board_is_refused_before_any_board_is_asked(inventory, command, option):
    answer = run(*command, "--host", "shelf")

    assert answer.code == 2 and f"{option}: with one host only" in answer.err
