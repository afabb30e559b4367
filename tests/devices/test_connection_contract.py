"""What every connection does alike: this machine, a virtual board, and a board over SSH behind two login shells."""

import hashlib
import json
import os
import shutil
import signal
import subprocess

import pytest

import devices
from devices import BoardUnreachableError
from tests.devices.sshd import SFTP_SERVER, SSHD, Sshd, set_up_user

NAMES = ["plain", "two words", "it's", 'a"b', "$HOME", "a;b", "ü", "line\nbreak", "-n", "*", "a!b", "back\\slash"]


@pytest.fixture(params=["localhost", "virtual:jetson-nano", "ssh", "ssh behind tcsh"])
def connection(request, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "agent-home"))
    if not request.param.startswith("ssh"):
        yield devices.connect(request.param)
        return
    shell = ["tcsh"] if "tcsh" in request.param else None
    if SSHD is None or (shell and not (shutil.which("tcsh") and SFTP_SERVER.exists())):
        pytest.skip("no OpenSSH server, or no tcsh; apt-get install openssh-server tcsh")
    board = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch), shell=shell).start()
    (tmp_path / "user" / ".ssh" / "known_hosts").write_text(board.known_hosts_line)
    with devices.connect(board.address) as connection:
        yield connection
    board.stop()


@pytest.fixture
def folder(connection, tmp_path):
    """An empty folder on the board."""
    path = str(tmp_path / "on-board")
    connection.mkdir(path)
    return path


def script(connection, text, *arguments, **options):
    return connection.run([connection.python(), "-c", text, *arguments], timeout_s=60, **options)


def put(connection, tmp_path, content, remote):
    (tmp_path / "source").write_bytes(content)
    connection.put(tmp_path / "source", remote)


# Commands


def test_arguments_arrive_as_they_are(connection):
    ended = script(connection, "import json, sys; print(json.dumps(sys.argv[1:]))", *NAMES, "")

    assert json.loads(ended.stdout) == [*NAMES, ""]


def test_programs_of_many_lines_run(connection):
    assert script(connection, "\nfor word in ('a!',\n  'b'):\n    print(word)\n").stdout == b"a!\nb\n"


def test_input_output_errors_and_the_exit_code_are_apart(connection):
    text = "import sys; print(len(sys.stdin.buffer.read())); print('bad', file=sys.stderr); sys.exit(3)"

    assert script(connection, text, stdin=bytes(300_000)) == (3, b"300000\n", b"bad\n")


def test_a_command_that_does_not_end_is_given_up(connection):
    with pytest.raises(BoardUnreachableError, match=r"sleep did not end within 0\.2 s on"):
        connection.run(["sleep", "20"], timeout_s=0.2)


def test_a_started_command_has_a_process_id_and_writes_apart(connection, folder, tools):
    pid = connection.start(
        ["sh", "-c", "echo out; echo log >&2; exec sleep 600"], log=f"{folder}/log", output=f"{folder}/out"
    )

    tools.wait_for(
        lambda: connection.exists(f"{folder}/log") and connection.read(f"{folder}/log") == b"log\n", "the log"
    )
    assert connection.read(f"{folder}/out") == b"out\n"
    assert connection.signal(pid, 0)
    assert connection.signal(pid, signal.SIGTERM)
    tools.wait_for(lambda: not connection.signal(pid, 0), "its end")
    assert not connection.signal(pid, signal.SIGTERM)


def test_what_cannot_be_started_is_an_error(connection, folder):
    with pytest.raises(BoardUnreachableError, match="cannot start /no/such/program on"):
        connection.start(["/no/such/program"], log=f"{folder}/log", output=f"{folder}/out")


def test_a_zombie_is_no_process(connection, tools):
    child = subprocess.Popen(["true"])
    tools.wait_for(lambda: not connection.signal(child.pid, 0), "its end")
    child.wait()


def test_home_is_an_absolute_folder_and_python_runs(connection):
    assert os.path.isabs(connection.home())
    assert script(connection, "print(6 * 7)").stdout == b"42\n"


# Files


def test_files_arrive_whole_under_every_name(connection, folder, tmp_path):
    contents = {name: os.urandom(size) for name, size in zip(NAMES, [0, 1, 32768, 32769, 300_000] * 3, strict=False)}
    for number, content in enumerate(contents.values()):
        (tmp_path / f"{number}").write_bytes(content)

    connection.put_all([(tmp_path / f"{number}", f"{folder}/{name}") for number, name in enumerate(contents)])

    assert connection.listdir(folder) == {name: len(content) for name, content in contents.items()}
    for name, content in contents.items():
        assert connection.read(f"{folder}/{name}") == content
        assert connection.size(f"{folder}/{name}") == len(content)
        assert connection.sha256(f"{folder}/{name}") == hashlib.sha256(content).hexdigest()


def test_a_file_is_replaced_as_a_whole(connection, folder, tmp_path):
    for content in (b"first, and longer", b"second"):
        put(connection, tmp_path, content, f"{folder}/file")

    assert connection.read(f"{folder}/file") == b"second"
    assert list(connection.listdir(folder)) == ["file"]


def test_parts_of_a_file_are_read_and_hashed(connection, folder, tmp_path):
    put(connection, tmp_path, b"old" * 20_000 + b"new", f"{folder}/file")

    assert connection.read(f"{folder}/file", 60_000) == b"new"
    assert connection.read(f"{folder}/file", 60_003) == b""
    assert connection.read(f"{folder}/file", 60_004) == b""
    assert connection.read_part(f"{folder}/file", 59_997, 3) == b"old"
    assert connection.read_part(f"{folder}/file", 59_999, 40_000) == b"dnew"
    assert connection.read_part(f"{folder}/file", 60_003, 8) == b""
    assert connection.sha256(f"{folder}/file", 3) == hashlib.sha256(b"old").hexdigest()


def test_a_file_above_the_limit_is_refused(connection, folder, tmp_path):
    put(connection, tmp_path, bytes(100_001), f"{folder}/file")

    assert len(connection.read(f"{folder}/file", limit=100_001)) == 100_001
    with pytest.raises(BoardUnreachableError, match="longer than the limit of 100000 bytes"):
        connection.read(f"{folder}/file", limit=100_000)


def test_what_is_missing_is_an_error_with_its_path_and_cause(connection, folder, tmp_path):
    missing = f"{folder}/missing"

    assert not connection.exists(missing)
    for what, operation in {
        "read": lambda: connection.read(missing),
        "list": lambda: connection.listdir(missing),
        "size": lambda: connection.size(missing),
        "sha256": lambda: connection.sha256(missing),
        "put": lambda: put(connection, tmp_path, b"x", f"{missing}/file"),
    }.items():
        with pytest.raises(BoardUnreachableError, match="No such file") as caught:
            operation()
        assert missing in str(caught.value), what


def test_a_source_that_is_missing_is_an_error(connection, folder, tmp_path):
    with pytest.raises(BoardUnreachableError, match="No such file"):
        connection.put(tmp_path / "nothing", f"{folder}/file")
    assert connection.listdir(folder) == {}


def test_below_a_file_nothing_exists(connection, folder, tmp_path):
    put(connection, tmp_path, b"x", f"{folder}/file")

    assert connection.exists(f"{folder}/file")
    assert not connection.exists(f"{folder}/file/below")
    with pytest.raises(BoardUnreachableError, match=f"cannot make the folder {folder}/file/below"):
        connection.mkdir(f"{folder}/file/below")


def test_folders_are_made_with_those_above_and_again(connection, folder):
    connection.mkdir(f"{folder}/a/b c/d")
    connection.mkdir(f"{folder}/a/b c/d")

    assert list(connection.listdir(f"{folder}/a")) == ["b c"]


def test_removing_needs_a_file_but_no_existing_one(connection, folder, tmp_path):
    put(connection, tmp_path, b"x", f"{folder}/file")

    connection.remove(f"{folder}/file")
    connection.remove(f"{folder}/file")
    with pytest.raises(BoardUnreachableError, match=f"cannot remove {folder} on"):
        connection.remove(folder)
    assert connection.listdir(folder) == {}


def test_a_folder_is_not_read_as_a_file(connection, folder):
    with pytest.raises(BoardUnreachableError, match=f"cannot read {folder} on"):
        connection.read(folder)


def test_a_link_to_nothing_and_a_name_that_is_not_utf8_do_not_hide_the_others(connection, folder, tmp_path):
    put(connection, tmp_path, b"x", f"{folder}/file")
    os.symlink("nowhere", f"{folder}/link")
    with open(os.fsencode(folder) + b"/\xff\xfe", "wb"):
        pass

    found = connection.listdir(folder)

    assert found["file"] == 1
    assert len(found) == 3
