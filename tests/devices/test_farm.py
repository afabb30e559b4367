"""Places of a board farm, with labgrid's own coordinator and exporter on loopback. Clients are really killed."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import devices
from devices import InventoryEntry, PlaceError, add_board, farm
from devices.endpoint import resolve
from devices.farm.places import _host
from devices.host_keys import HostKey
from tests.cli.commands import run
from tests.devices.conftest import wait_for
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("labgrid") is None,
        reason="labgrid is not installed: pip install 'lightnas-edge[labgrid]'",
    ),
    pytest.mark.timeout(300),
]
BIN = Path(sys.executable).parent
# A command that reserves places, says so, and holds them for some time.
CLIENT = """
import sys, time
from devices import farm
def say(*words):
    print(*words, flush=True)
wanted = [farm.tags_of(text) for text in sys.argv[2:]]
with farm.reserved(wanted, on_waiting=say, on_given_back=say, on_lost=say) as places:
    say(*(place.name for place in places))
    time.sleep(float(sys.argv[1]))
"""


class Farm:
    """A coordinator with the places `orin-1`, whose board has the address 127.0.0.1:2222, and `orin-2`, which has no board yet.

    `pair-1` and `pair-2` are for commands that want two boards.
    """

    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        places = {
            name: {
                "aliases": [], "comment": "", "tags": {"board": board}, "created": 0.0, "changed": 0.0,
                "matches": [{"exporter": exporter, "group": "board", "cls": "NetworkService"}],
            }
            for name, board, exporter in (
                ("orin-1", "agx-orin", "exporter-1"), ("orin-2", "real", "exporter-2"),
                ("pair-1", "pair", "exporter-pair-1"), ("pair-2", "pair", "exporter-pair-2"),
            )
        }  # fmt: skip
        (folder / "places.yaml").write_text(json.dumps(places))  # JSON is YAML
        self.processes = [self.start("labgrid-coordinator", "-l", self.coordinator)]
        wait_for(self.listens, "the coordinator to listen")
        self.export("exporter-1", {"address": "127.0.0.1", "username": "someone", "port": 2222})
        for number in (1, 2):
            service = {"address": "127.0.0.1", "username": "someone", "port": 2300 + number}
            self.export(f"exporter-pair-{number}", service)

    def start(self, program, *arguments):
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen([BIN / program, *arguments], cwd=self.folder, stdout=log, stderr=log)

    def client(self, *arguments):
        return subprocess.run(
            [BIN / "labgrid-client", "-x", self.coordinator, *arguments], capture_output=True, text=True, timeout=60
        )

    def listens(self):
        host, port = self.coordinator.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return False
        return True

    def export(self, name, service):
        config = self.folder / f"{name}.yaml"
        config.write_text(json.dumps({"board": {"NetworkService": service}}))
        self.processes.append(self.start("labgrid-exporter", "-c", self.coordinator, "-n", name, config))
        wait_for(lambda: name in self.client("resources").stdout, f"{name} to export its board")

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def shared_farm(tmp_path_factory):
    made = Farm(tmp_path_factory.mktemp("farm"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def here(shared_farm, tmp_path, monkeypatch):
    """The environment of a user of this farm."""
    monkeypatch.setenv("LG_COORDINATOR", shared_farm.coordinator)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return shared_farm


def reserved(*wanted, said=None, given_back=None, lost=None):
    """`said`, `given_back` and `lost` collect what is reported."""

    def into(found):
        return lambda *what: None if found is None else found.append(what[-1])

    return farm.reserved(
        [farm.tags_of(text) for text in wanted or ("board=agx-orin",)],
        on_waiting=into(said), on_given_back=into(given_back), on_lost=into(lost),
    )  # fmt: skip


def started(*wanted, holds_s=3600.0):
    return subprocess.Popen([sys.executable, "-c", CLIENT, str(holds_s), *wanted], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def client():
    """A command that holds the place, and the process that holds the reservation for it."""
    command = started("board=agx-orin")
    assert command.stdout.readline() == "orin-1\n"
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    (holder,) = [int(pid) for pid in children if b"devices.farm.holder" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    yield command, holder
    if command.poll() is None:
        command.kill()
    command.wait()
    command.stdout.close()


def test_a_second_command_waits_and_is_told_who_holds_the_place():
    said, got = [], threading.Event()

    def second():
        with reserved(said=said):
            got.set()

    with reserved() as (place,):
        assert (place.name, place.host) == ("orin-1", "someone@127.0.0.1:2222")
        waiting = threading.Thread(target=second)
        waiting.start()
        wait_for(lambda: said, "the second command to say that it waits")
        assert not got.is_set()
        ((name, who),) = said[0]
        assert name == "orin-1" and "/" in who  # labgrid names a user HOST/USER
    waiting.join(60)
    assert got.is_set()


def test_a_command_that_waits_for_its_second_place_gives_the_first_to_whoever_waits_for_it():
    """Else two commands that hold one place each, and want the other's, wait for ever."""
    said, given_back, got = [], [], threading.Event()

    def both():
        with reserved("name=pair-1", "name=pair-2", said=said, given_back=given_back):
            got.set()

    with reserved("name=pair-2"):
        waiting = threading.Thread(target=both)
        waiting.start()
        wait_for(lambda: any(said), "the command to say who holds its second place")
        with reserved("name=pair-1"):
            assert given_back == [["pair-1"]]
        assert not got.is_set()
    waiting.join(100)

    assert got.is_set()
    assert next(holders for holders in said if holders)[0][0] == "pair-2"  # not the place that it holds itself


def test_two_commands_that_hold_what_the_other_wants_both_finish():
    """Made on purpose: pair-1 goes from the first to the second, then pair-2 to the first, who has waited longer."""
    with reserved("name=pair-2"):
        one = started("name=pair-1", "name=pair-2", holds_s=0.1)
        assert "pair-2" in one.stdout.readline()  # it holds pair-1
        two = started("name=pair-2", "name=pair-1", holds_s=0.1)
        assert "pair-2" in two.stdout.readline()  # it waits for both
        assert one.stdout.readline() == "['pair-1']\n"  # given to the second one

    last = [command.communicate(timeout=120)[0].splitlines()[-1] for command in (one, two)]
    assert last == ["pair-1 pair-2", "pair-2 pair-1"]
    assert (one.returncode, two.returncode) == (0, 0)


def test_many_commands_with_the_same_tags_take_turns_with_both_places():
    commands = [started("board=pair", "board=pair", holds_s=0.1) for _ in range(4)]

    last = [command.communicate(timeout=240)[0].splitlines()[-1] for command in commands]
    assert [set(names.split()) for names in last] == [{"pair-1", "pair-2"}] * 4


def test_a_command_does_not_wait_for_a_place_that_it_holds_itself():
    """`board=pair` may get pair-1 first; then it moves to pair-2."""
    with reserved("board=pair", "name=pair-1") as places:
        assert [place.name for place in places] == ["pair-2", "pair-1"]
        assert [place.host for place in places] == ["someone@127.0.0.1:2302", "someone@127.0.0.1:2301"]


def test_more_places_than_there_are_is_refused_at_once():
    with (
        pytest.raises(
            PlaceError, match="3 places are wanted, with board=pair and name=pair-2 and name=pair-1, and"
        ) as caught,
        reserved("board=pair", "name=pair-2", "name=pair-1"),
    ):
        pass

    assert "pair-1 (board=pair); pair-2 (board=pair)" in caught.value.hint


def test_nobody_else_can_acquire_a_place_that_is_reserved(here):
    with reserved():
        refused = subprocess.run(
            [BIN / "labgrid-client", "-x", here.coordinator, "-p", "orin-1", "acquire"],
            env={**os.environ, "LG_USERNAME": "somebody-else"}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert refused.returncode != 0 and "not reserved for" in refused.stdout + refused.stderr


def test_a_command_that_is_killed_gives_its_place_back_at_once(client):
    command, _ = client
    command.kill()

    said = []
    with reserved(said=said):
        pass

    assert [note for note in farm.read_notes()] == []


def test_a_command_and_its_holder_that_are_killed_lose_the_place_by_themselves(client):
    """The coordinator drops what nobody has polled for a minute; three minutes are the most that is promised."""
    command, holder = client
    os.kill(holder, signal.SIGKILL)
    command.kill()

    with reserved() as (place,):
        assert place.name == "orin-1"


def test_boards_release_frees_what_a_killed_command_left_and_nothing_that_is_held(client):
    command, holder = client
    code, out, err = run("boards", "release")
    assert (code, out) == (0, "") and "a command that runs holds it" in err

    os.kill(holder, signal.SIGKILL)
    command.kill()
    wait_for(lambda: [held for _, _, held in farm.read_notes()] == [False], "the holder to end")
    code, out, _ = run("boards", "release")
    said = []
    with reserved(said=said):
        pass

    assert (code, said) == (0, []) and out.startswith("board=agx-orin: released")
    assert list(farm.read_notes()) == []


def test_boards_release_tries_every_note_also_after_a_coordinator_that_is_gone(client, tmp_path):
    command, holder = client
    os.kill(holder, signal.SIGKILL)
    command.kill()
    wait_for(lambda: [held for _, _, held in farm.read_notes()] == [False], "the holder to end")
    ((path, _, _),) = farm.read_notes()
    gone = path.with_name("0gone.json")
    gone.write_text(json.dumps({"coordinator": "127.0.0.1:1", "token": "0gone", "wanted": "board=old"}))

    code, out, err = run("boards", "release")

    assert code == 1 and out.startswith("board=agx-orin: released")
    assert "board=old: not released: " in err and "127.0.0.1:1 does not answer" in err
    gone.unlink()


def test_a_place_whose_address_stands_in_boards_toml_keeps_the_user_that_labgrid_names(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    add_board(InventoryEntry(name="orin", host="10.0.0.5"))
    said = {"address": "10.0.0.5", "port": 22, "username": "nvidia"}

    assert resolve(_host(said)).user == "nvidia"
    assert resolve(_host(said)).board.name == "orin"
    assert _host({**said, "username": ""}) == "orin"


def test_a_lost_reservation_is_reported_while_the_command_runs(here):
    lost = []
    with reserved(lost=lost):
        ((_, note, _),) = farm.read_notes()
        assert here.client("cancel-reservation", note.token).returncode == 0
        wait_for(lambda: lost, "the loss to be noticed")

    assert "does not exist" in lost[0]


def test_tags_that_no_place_has_are_refused_with_the_places_that_there_are():
    with (
        pytest.raises(PlaceError, match="no place of labgrid's coordinator has board=nano") as caught,
        reserved("board=nano"),
    ):
        pass

    assert "orin-1 (board=agx-orin)" in caught.value.hint


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("LG_COORDINATOR", "127.0.0.1:1")
    with pytest.raises(PlaceError, match=r"coordinator at 127\.0\.0\.1:1 does not answer"), reserved():
        pass


def test_without_labgrid_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "labgrid.py").write_text("raise ImportError('No module named labgrid')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PlaceError, match="labgrid cannot be used") as caught, reserved():
        pass

    assert "pip install 'lightnas-edge[labgrid]'" in caught.value.hint


def test_a_place_and_a_host_are_not_named_together():
    code, _, err = run("probe", "--host", "localhost", "--place", "board=agx-orin")

    assert code == 2 and "--host and --place both name boards" in err


@needs_sshd
def test_a_command_runs_on_the_board_of_a_place_and_frees_it(here, tmp_path, monkeypatch):
    public = set_up_user(tmp_path / "user", monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = Sshd(tmp_path / "board", public).start()
    user, _, port = server.address.replace(":", "@").split("@")
    here.export("exporter-2", {"address": "127.0.0.1", "username": user, "port": int(port)})
    python = write_python_wrapper(tmp_path / "python")
    key = str(HostKey.parse((tmp_path / "board" / "host_key.pub").read_text()))
    devices.add_board(
        devices.InventoryEntry(
            name="bench", host="127.0.0.1", user=user, port=int(port), python=str(python), host_key=key
        )
    )

    code, out, err = run("probe", "--place", "board=real", "--json")

    assert code == 0, err
    assert "reserved orin-2: bench" in err and "orin-2 is free again" in err
    assert '"kind": "probe"' in out
    end_agents(server)
    server.stop()
