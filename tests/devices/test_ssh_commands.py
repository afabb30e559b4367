"""`lightnas-edge boards` and `lightnas-edge pull`, over a real OpenSSH server on loopback."""

import argparse
import io
import json

import pytest

import devices
from devices import Campaign, HostKeyError, InventoryError, ssh
from lightnas_edge.cli import boards, pull
from lightnas_edge.cli._console import output
from tests.devices.sshd import Sshd, end_agents, make_key, needs_sshd, set_up_user, write_python_wrapper

pytestmark = needs_sshd


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setattr(ssh.SshConnection, "poll_s", 0.05)
    server = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch)).start()
    monkeypatch.chdir(tmp_path)
    yield server
    end_agents(server)
    server.stop()


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command; (exit code, standard output, standard error)."""
    opened = []
    connect = devices.connect
    monkeypatch.setattr(devices, "connect", lambda host: opened.append(connect(host)) or opened[-1])

    def run(*argv):
        parser = argparse.ArgumentParser()
        commands = parser.add_subparsers()
        for command in (boards, pull):
            command.add_parser(commands)
        arguments = parser.parse_args([str(word) for word in argv])
        with output():
            code = arguments.run(arguments)
        return code, *capsys.readouterr()

    yield run
    for connection in opened:
        connection.close()


def test_a_board_is_added_by_its_fingerprint_listed_used_and_removed(board, run):
    code, out, _ = run("boards", "add", "bench", board.address, "--fingerprint", board.fingerprint)

    assert code == 0
    assert f"ssh-ed25519 {board.fingerprint}" in out
    assert "logged in; the agent will run in" in out
    _, out, _ = run("boards", "list")
    assert "bench" in out
    assert board.fingerprint in out
    assert json.loads(run("boards", "list", "--json")[1])["boards"][0]["port"] == board.port
    run("boards", "remove", "bench")
    assert devices.read_inventory() == {}
    with pytest.raises(HostKeyError, match="not a known host"):
        devices.connect(board.address)


def test_the_address_of_an_added_board_is_known_too(board, run):
    run("boards", "add", "bench", board.address, "--yes")

    devices.connect(board.address).close()


def test_another_fingerprint_adds_nothing(board, run):
    with pytest.raises(HostKeyError, match=r"offers the host key SHA256:.*, not SHA256:other"):
        run("boards", "add", "bench", board.address, "--fingerprint", "SHA256:other")
    assert devices.read_inventory() == {}


def test_without_a_terminal_an_unknown_key_is_not_taken(board, run):
    with pytest.raises(HostKeyError, match="no terminal to confirm") as caught:
        run("boards", "add", "bench", board.address)
    assert "--fingerprint" in caught.value.hint
    assert devices.read_inventory() == {}


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), ("no\n", 1)])
def test_at_a_terminal_the_user_confirms_the_key(board, run, monkeypatch, answer, code):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))

    got, _, err = run("boards", "add", "bench", board.address)

    assert got == code
    assert "is it the same? [y/N]" in err
    assert ("bench" in devices.read_inventory()) == (code == 0)


def test_a_key_in_known_hosts_needs_no_answer(tmp_path, board, run):
    (tmp_path / "user" / ".ssh" / "known_hosts").write_text(board.known_hosts_line)

    code, _, err = run("boards", "add", "bench", board.address)

    assert code == 0
    assert "key is known" in err


def test_a_changed_key_is_refused_even_with_yes_but_taken_by_its_fingerprint(tmp_path, board, run):
    known_hosts = tmp_path / "user" / ".ssh" / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{board.port} {make_key(tmp_path / 'other')}")

    with pytest.raises(HostKeyError, match="has changed") as caught:
        run("boards", "add", "bench", board.address, "--yes")
    assert "several boards share an address" in caught.value.hint
    code, _, _ = run("boards", "add", "bench", board.address, "--fingerprint", board.fingerprint)
    assert code == 0


def test_a_board_written_by_hand_is_pinned_by_its_name(board, run):
    user, host, port = board.address.replace(":", "@").split("@")
    devices.add_board(devices.InventoryEntry(name="bench", host=host, user=user, port=int(port), board="jetson-nano"))
    with pytest.raises(HostKeyError) as caught:
        devices.connect("bench")
    assert "lightnas-edge boards add bench" in caught.value.hint

    run("boards", "add", "bench", "--yes")

    pinned = devices.read_inventory()["bench"]
    assert (pinned.fingerprint, pinned.board) == (board.fingerprint, "jetson-nano")


def test_a_name_that_is_taken_is_refused_before_any_prompt(board, run):
    devices.add_board(devices.InventoryEntry(name="bench", host="elsewhere"))

    with pytest.raises(InventoryError, match="has a board bench already"):
        run("boards", "add", "bench", board.address, "--yes")


def test_pull_brings_tables_named_as_profile_names_them_and_then_only_what_is_new(tmp_path, board, run, write_job):
    python = write_python_wrapper(tmp_path / "python3")
    run("boards", "add", "bench", board.address, "--yes", "--python", python)
    assert run("pull", "--host", "bench")[1:] == (
        "",
        "bench holds no measurements; `lightnas-edge profile --host bench --space NAME` makes some\n",
    )
    with devices.connect("bench") as connection:
        campaign = Campaign(connection, write_job())
        campaign.start()
        campaign.follow(tmp_path / "measured.jsonl")

    code, out, _ = run("pull", "--host", "bench", "--out", "tables")

    assert code == 0
    assert out.startswith("tables/bench-tiny-fp32-b1-t1.lut.jsonl: 2 operators, 0 networks, ")
    pulled = tmp_path / "tables" / "bench-tiny-fp32-b1-t1.lut.jsonl"
    assert pulled.read_bytes() == (tmp_path / "measured.jsonl").read_bytes()
    (again,) = json.loads(run("pull", "--host", "bench", "--out", "tables", "--json")[1])["tables"]
    assert (again["bytes"], again["operators"]) == (0, 2)
    assert "holds no measurements of space lightnas" in run("pull", "--host", "bench", "--space", "lightnas")[2]

    pulled.write_bytes(b'{"kind":"lut"}\n')
    _, out, err = run("pull", "--host", "bench", "--out", "tables")
    assert out.startswith("tables/bench-tiny-fp32-b1-t1-00112233.lut.jsonl: 2 operators")
    assert "holds other measurements than the board" in err
    assert pulled.read_bytes() == b'{"kind":"lut"}\n'

    _, out, _ = run("boards", "clean", "bench")
    assert "3 files removed" in out
