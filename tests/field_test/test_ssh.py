"""A field test over a real OpenSSH server: the board, the way to it and its keys are in no byte of the archive."""

import pytest

import devices
from devices.host_keys import HostKey
from lightnas_edge.field_test import FieldTestRecord, unpack
from tests.cli.commands import run
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper
from tests.field_test.conftest import bytes_of

pytestmark = needs_sshd


@pytest.fixture
def board(tmp_path, monkeypatch):
    server = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch)).start()
    user, _, port = server.address.replace(":", "@").split("@")
    python = str(write_python_wrapper(tmp_path / "python3"))
    key = str(HostKey.parse((tmp_path / "board" / "host_key.pub").read_text()))
    devices.add_board(
        devices.InventoryEntry(
            name="quagga-9", host="127.0.0.1", user=user, port=int(port), python=python, host_key=key
        )
    )
    yield server
    end_agents(server)
    server.stop()


def test_over_ssh_the_steps_run_and_the_archive_says_nothing_of_the_way_to_the_board(board, tmp_path):
    archive = tmp_path / "a.tar.gz"
    answer = run("field-test", "--host", "quagga-9", "--quick", "--only", "onnxruntime-fp32", "--only", "isolation", "--out", archive)  # fmt: skip

    assert answer.code == 0, answer.out + answer.err
    record = FieldTestRecord.load(unpack(archive, tmp_path / "to") / "summary.json")
    assert {step.name: step.status for step in record.steps} == dict.fromkeys(
        ("probe", "snapshot", "onnxruntime-fp32", "isolation", "restored"), "passed"
    )
    assert (record.reached_by, record.simulated, record.board) == ("ssh", False, "generic-linux")

    content = bytes_of(archive)
    secrets = [
        "quagga", "127.0.0.1", str(tmp_path / "user"), str(board.home), board.fingerprint,
        (tmp_path / "board/host_key.pub").read_text().split()[1], "nvidia@", f":{board.port}",
    ]  # fmt: skip
    assert [text for text in secrets if text.encode() in content] == []
    assert b"REMOVED-HO" in content  # there was something to remove

    left = [path for path in (board.home / ".lightnas-edge").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"agent.lock", "guard.lock", "guard.log"}
