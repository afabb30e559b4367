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
from devices import PlaceError, farm
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
# A command that reserves a place, says so, and would hold it for an hour.
CLIENT = """
import time
from devices import farm
with farm.reserved(("board=agx-orin",), on_waiting=print, on_lost=print) as place:
    print(place.name, flush=True)
    time.sleep(3600)
"""


class Farm:
    """A coordinator with the places `orin-1`, whose board has the address 127.0.0.1:2222, and `orin-2`, which has no board yet."""

    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        places = {
            name: {
                "aliases": [], "comment": "", "tags": {"board": board}, "created": 0.0, "changed": 0.0,
                "matches": [{"exporter": exporter, "group": "board", "cls": "NetworkService"}],
            }
            for name, board, exporter in (("orin-1", "agx-orin", "exporter-1"), ("orin-2", "real", "exporter-2"))
        }  # fmt: skip
        (folder / "places.yaml").write_text(json.dumps(places))  # JSON is YAML
        self.processes = [self.start("labgrid-coordinator", "-l", self.coordinator)]
        wait_for(self.listens, "the coordinator to listen")
        self.export("exporter-1", {"address": "127.0.0.1", "username": "someone", "port": 2222})

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


def reserved(*tags, said=None, lost=None):
    return farm.reserved(
        tags or ("board=agx-orin",), on_waiting=(said if said is not None else []).append,
        on_lost=(lost if lost is not None else []).append,
    )  # fmt: skip


@pytest.fixture
def client():
    """A command that holds the place, and the process that holds the reservation for it."""
    command = subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, text=True)
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

    with reserved() as place:
        assert (place.name, place.host) == ("orin-1", "someone@127.0.0.1:2222")
        waiting = threading.Thread(target=second)
        waiting.start()
        wait_for(lambda: said, "the second command to say that it waits")
        assert not got.is_set()
        ((name, who),) = said[0]
        assert name == "orin-1" and "/" in who  # labgrid names a user HOST/USER
    waiting.join(60)
    assert got.is_set()


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

    with reserved() as place:
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
