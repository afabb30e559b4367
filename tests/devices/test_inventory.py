"""boards.toml: what a user may write there, and what `boards add` writes."""

import stat

import pytest

from devices import (
    InventoryEntry,
    InventoryError,
    add_board,
    inventory_path,
    read_groups,
    read_inventory,
    remove_board,
)
from devices.inventory import inventory_entry
from devices.pinning import planned_board

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGErbTW7ZbvT6Hpxfb8vWRB8FKVqMLAQ0Ei8rAbyxmo2"
BY_HAND = """\
# my boards
kind = "boards"
schema = 1

# on the bench
[boards.nano]
host = "192.168.55.1"
user = "nvidia"   # from the first boot

# in the rack
[boards."agx.lab"]
host = "agx"
port = 2222
board = "jetson-agx-xavier"
python = "/opt/python3.8/bin/python3"
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "boards.toml"
    path.write_text(BY_HAND)
    return path


def test_no_file_means_no_boards(tmp_path):
    assert read_inventory(tmp_path / "boards.toml") == {}


def test_boards_are_read_with_what_is_left_open_as_none(path):
    assert read_inventory(path) == {
        "nano": InventoryEntry(name="nano", host="192.168.55.1", user="nvidia"),
        "agx.lab": InventoryEntry(
            name="agx.lab", host="agx", port=2222, board="jetson-agx-xavier", python="/opt/python3.8/bin/python3"
        ),
    }


def test_the_file_stands_in_xdg_config_home_or_else_in_dot_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert inventory_path() == tmp_path / ".config" / "lightnas-edge" / "boards.toml"

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert inventory_path() == tmp_path / "xdg" / "lightnas-edge" / "boards.toml"

    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, says the specification
    assert inventory_path() == tmp_path / ".config" / "lightnas-edge" / "boards.toml"


def test_adding_keeps_what_was_written_by_hand(path):
    added = InventoryEntry(
        name="orin", host="orin.local", user="u", port=22, key='~/a "key"\\x', board="jetson-orin-nano", host_key=KEY
    )

    add_board(added, path)

    assert path.read_text().startswith(BY_HAND)
    assert read_inventory(path)["orin"] == added


def test_the_first_board_makes_the_file_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "boards.toml"

    add_board(InventoryEntry(name="nano", host="h"), path)

    assert path.read_text() == 'kind = "boards"\nschema = 1\n\n[boards.nano]\nhost = "h"\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["boards.toml"]


def test_removing_takes_one_table_and_nothing_else(path):
    removed = remove_board("nano", path)

    assert removed.host == "192.168.55.1"
    assert list(read_inventory(path)) == ["agx.lab"]
    assert "# my boards" in path.read_text()
    assert '# in the rack\n[boards."agx.lab"]' in path.read_text()
    remove_board("agx.lab", path)
    assert read_inventory(path) == {}


def test_comments_at_the_end_stay_when_the_last_board_is_removed(path):
    path.write_text(BY_HAND + "\n# [boards.old]\n# host = 'old'\n")

    remove_board("agx.lab", path)

    assert path.read_text().endswith("\n# [boards.old]\n# host = 'old'\n")


def test_a_key_is_found_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    assert planned_board("bench", "u@10.0.0.5", key="id_bench").key == str(tmp_path / "id_bench")
    assert planned_board("bench", "u@10.0.0.5", key="~/.ssh/id").key == "~/.ssh/id"


def test_a_link_to_the_file_stays_a_link(tmp_path, path):
    link = tmp_path / "linked.toml"
    link.symlink_to(path)

    add_board(InventoryEntry(name="orin", host="o"), link)

    assert link.is_symlink()
    assert "orin" in read_inventory(path)


def test_a_board_written_in_another_form_is_not_removed(tmp_path):
    path = tmp_path / "boards.toml"
    path.write_text('[boards]\nnano = {host = "h"}\nagx = {host = "a"}\n')

    with pytest.raises(InventoryError, match="without changing other entries"):
        remove_board("nano", path)
    assert len(read_inventory(path)) == 2


def test_a_name_is_given_once(path):
    with pytest.raises(InventoryError, match="has a board nano already") as caught:
        add_board(InventoryEntry(name="nano", host="h"), path)
    assert "boards remove nano" in caught.value.hint


def test_a_board_that_is_not_there_cannot_be_removed(path):
    with pytest.raises(InventoryError, match="has no board tx2") as caught:
        remove_board("tx2", path)
    assert caught.value.hint == "boards: nano, agx.lab"


def test_one_message_names_all_faults(path):
    path.write_text(
        'color = "green"\n'
        "[boards.a]\nuser = 7\n"
        '[boards.b]\nhost = "u@h"\nport = 70000\npassword = "x"\nspeed = 1\nhost_key = "ssh-ed25519 AAAA"\n'
        '[boards.localhost]\nhost = ""\n'
    )

    with pytest.raises(InventoryError) as caught:
        read_inventory(path)

    assert str(caught.value).splitlines()[1:] == [
        "  color: unknown field",
        "  boards.a.host: missing",
        "  boards.a.user: should be a valid string, found 7",
        "  boards.b.password: never kept in a file; use a key, or type it at the prompt",
        "  boards.b.speed: unknown field; known are host, user, port, key, board, python, host_key",
        "  boards.b.host: String should match pattern '^[^\\s@\\x00-\\x1f\\x7f]+$', found 'u@h'",
        "  boards.b.port: should be less than or equal to 65535, found 70000",
        "  boards.b.host_key: not a key of type ssh-ed25519: 'ssh-ed25519 AAAA'",
        "  boards.localhost.name: expected another name than localhost, which is this machine, found 'localhost'",
        "  boards.localhost.host: String should match pattern '^[^\\s@\\x00-\\x1f\\x7f]+$', found ''",
    ]
    assert "holds 10 errors" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"boards = 3",
        b"boards = " + b"[" * 100_000,
        b"[boards]\nnano = 1979-05-27",
        b"schema = " + b"9" * 5000,
        b"schema = 0",
        b"schema = true",
        b"[boards.nano]\nhost = 1e999\nport = nan",
        b'[boards."\\u001b[2J"]\nhost = "h"',
        b'[boards.nano]\nhost = "\\u001b]52;c;x\\u0007"',
        b"[boards.nano]\nhost = {a = {b = [1, 2]}}",
    ],
)
def test_whatever_the_file_holds_the_message_is_printable(path, content):
    path.write_bytes(content)

    with pytest.raises(InventoryError) as caught:
        read_inventory(path)

    assert all(line.isprintable() and len(line) < 500 for line in str(caught.value).splitlines())


def test_a_board_that_cannot_be_reached_is_not_added(path):
    with pytest.raises(InventoryError, match=r"the board cannot be added\n  host: .*\n  port: "):
        inventory_entry("orin", host="two words", port=0)


def test_a_newer_file_is_refused_by_its_schema(path):
    path.write_text("schema = 2\n")

    with pytest.raises(InventoryError, match="has schema 2; this program reads 1"):
        read_inventory(path)


def test_a_file_that_is_not_toml_is_refused_with_the_place(path):
    path.write_text("[boards.nano\n")

    with pytest.raises(InventoryError, match=r"is not TOML: .*line 1"):
        read_inventory(path)


def test_a_group_names_boards_that_measure_together(tmp_path):
    path = tmp_path / "boards.toml"
    add_board(InventoryEntry(name="orin1", host="10.0.0.1"), path)
    path.write_text(path.read_text() + '\n[groups]\nshelf = ["orin1", "orin2"]\n')

    assert read_groups(path) == {"shelf": ("orin1", "orin2")}
    add_board(InventoryEntry(name="orin2", host="10.0.0.2"), path)
    assert read_groups(path) == {"shelf": ("orin1", "orin2")} and len(read_inventory(path)) == 2
    remove_board("orin1", path)
    assert read_groups(path) == {"shelf": ("orin1", "orin2")}


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        ('orin1 = ["orin2"]', "groups.orin1: a board has this name"),
        ('shelf = "orin1"', "groups.shelf: expected a list of hosts, found 'orin1'"),
        ("shelf = []", "groups.shelf: expected a list of hosts, found []"),
        ('shelf = ["orin1,orin2"]', "groups.shelf: expected hosts, found a comma or a group in ['orin1,orin2']"),
        ('all = ["shelf"]\nshelf = ["orin1"]', "groups.all: expected hosts, found a comma or a group in ['shelf']"),
    ],
)
def test_a_faulty_group_is_refused_with_its_name(tmp_path, groups, fault):
    path = tmp_path / "boards.toml"
    path.write_text(f'[boards.orin1]\nhost = "10.0.0.1"\n\n[groups]\n{groups}\n')

    with pytest.raises(InventoryError) as refusal:
        read_groups(path)

    assert fault in str(refusal.value)


def test_groups_that_are_no_table_are_refused(tmp_path):
    path = tmp_path / "boards.toml"
    path.write_text('groups = ["orin1"]\n')

    with pytest.raises(InventoryError, match="groups: expected a table of lists"):
        read_inventory(path)
