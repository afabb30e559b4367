"""A board that refuses to change a file: the error names the board's own cause, and the remedy for that cause alone."""

import errno
import os
import shutil
import subprocess

import pytest

import devices
from devices import BoardUnreachableError, cache
from devices.connection import Completed
from devices.ssh.refusals import Facts, refusal
from tests.devices.sshd import Sshd, needs_sshd, set_up_user

pytestmark = needs_sshd


@pytest.fixture
def board(tmp_path, monkeypatch):
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root is refused nothing, and there is no setpriv to change that")
    server = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch), bound_by_modes=True).start()
    (tmp_path / "user" / ".ssh" / "known_hosts").write_text(server.known_hosts_line)
    yield server
    server.stop()


@pytest.fixture
def connection(board):
    with devices.connect(board.address) as connection:
        yield connection


@pytest.fixture
def small_disk(board):
    """The agent's folder on a small file system of its own; the function mounts it with options."""
    folder = board.home / ".lightnas-edge"
    mounted = []

    def mount(options):
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"mounting is not allowed: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def refused(operation, *arguments):
    with pytest.raises(BoardUnreachableError) as caught:
        operation(*arguments)
    return str(caught.value), caught.value.hint


def local_file(tmp_path, size=100):
    path = tmp_path / "manifest.json"
    path.write_bytes(bytes(size))
    return path


def test_a_folder_that_may_not_be_written_is_named_with_its_owner(board, connection, tmp_path):
    folder = board.home / ".lightnas-edge"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        text, hint = refused(connection.mkdir, f"{folder}/agent")
        copied, _ = refused(connection.put, local_file(tmp_path), f"{folder}/manifest.json")
    finally:
        folder.chmod(0o755)

    owner = folder.owner()
    assert text == (
        f"cannot make the folder {folder}/agent on {board.address}: Permission denied: {folder} belongs to {owner} and "
        f"has mode 555; the agent runs as {owner}"
    )
    assert hint == f"on the board: chmod u+rwx {folder}"
    assert f"cannot copy manifest.json to {folder}/manifest.json on {board.address}: Permission denied" in copied
    assert "No such file" not in text + copied
    assert "clean" not in hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_that_one_run_by_sudo_left_to_another_user_gets_chown_as_remedy(board, connection):
    folder = board.home / ".lightnas-edge"
    folder.mkdir(mode=0o755)
    os.chown(folder, 1, 1)

    text, hint = refused(connection.mkdir, f"{folder}/agent")

    assert f"Permission denied: {folder} belongs to {folder.owner()} and has mode 755; the agent runs as root" in text
    assert hint == f"on the board: sudo chown -R root: {folder}"


def test_a_home_that_may_not_be_written_is_named(board, connection):
    board.home.chmod(0o555)
    try:
        text, _ = refused(connection.mkdir, connection.home())
    finally:
        board.home.chmod(0o755)

    assert f"Permission denied: {board.home} belongs to" in text


def test_a_home_that_does_not_exist_is_reported_as_that(tmp_path, board, connection):
    gone = tmp_path / "closed" / "gone"
    gone.parent.mkdir(mode=0o555)
    board.stop()
    board.config.write_text(board.config.read_text().replace(str(board.home), str(gone)).replace(f" -d {gone}", ""))
    board.start()
    with devices.connect(board.address) as again:
        text, hint = refused(again.mkdir, again.home())
    gone.parent.chmod(0o755)

    assert f"the home folder {gone} of" in text
    assert "does not exist" in text
    assert hint.startswith("on the board: sudo install -d -o ")


def test_a_link_to_a_disk_that_is_not_mounted_is_named(board, connection, tmp_path):
    (board.home / ".lightnas-edge").symlink_to("/mnt/ssd/lightnas-edge")

    text, hint = refused(connection.mkdir, f"{connection.home()}/agent")
    copied, _ = refused(connection.put, local_file(tmp_path), f"{connection.home()}/manifest.json")

    for message in (text, copied):
        assert f"{board.home}/.lightnas-edge is a link to /mnt/ssd/lightnas-edge, which does not exist" in message
    assert "mount that disk" in hint


def test_a_file_where_a_folder_belongs_is_named(board, connection):
    (board.home / ".lightnas-edge").write_text("")

    assert "is not a folder" in refused(connection.mkdir, f"{connection.home()}/agent")[0]


def test_a_disk_that_is_mounted_read_only_is_no_full_disk(board, connection, small_disk, tmp_path):
    folder = small_disk("size=20m")
    (folder / "models").mkdir()
    (folder / "models" / "old.onnx").write_text("")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)

    made = refused(connection.mkdir, f"{folder}/agent")
    copied = refused(connection.put, local_file(tmp_path), f"{folder}/manifest.json")
    cleaned = refused(cache.clean, connection)

    for text, hint in (made, copied, cleaned):
        assert "Read-only file system" in text
        assert "mounted read-only" in hint
        assert "boards clean" not in text + hint
    assert "cannot remove" in cleaned[0]


def test_a_disk_without_inodes_is_no_full_disk(board, connection, small_disk, tmp_path):
    folder = small_disk("size=20m,nr_inodes=12")
    for number in range(11):
        (folder / f"{number}").write_text("")

    made = refused(connection.mkdir, f"{folder}/agent")
    copied = refused(connection.put, local_file(tmp_path), f"{folder}/manifest.json")

    for text, hint in (made, copied):
        assert "no inodes are left" in text
        assert "boards clean" not in text + hint


@pytest.mark.parametrize("size", [3 << 20, 30 << 20])
def test_a_full_disk_is_reported_with_what_is_free_and_what_frees_it(board, connection, small_disk, tmp_path, size):
    folder = small_disk("size=4m")
    (folder / "filler").write_bytes(bytes(2 << 20))

    text, hint = refused(connection.put, local_file(tmp_path, size), f"{folder}/manifest.json")

    assert "No space left on device (2 MB are free there)" in text
    assert "boards clean" in hint
    assert sorted(path.name for path in folder.iterdir()) == ["filler"]


def test_a_probe_of_a_board_that_cannot_be_written_says_so(board, connection, small_disk):
    folder = small_disk("size=20m")
    devices.remote_agent.send_agent(connection)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)

    with pytest.raises(BoardUnreachableError, match="Read-only file system"):
        devices.probe(connection)


# The judgement alone

FACTS = {
    "folder": "/home/u/.lightnas-edge", "owner": "root", "mode": "755", "user": "u", "error": "", "free_bytes": 19 << 20,
    "free_files": 100, "home": "/home/u", "home_exists": True,
    "link": "", "link_to": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"error": "EACCES"}, "Permission denied: /home/u/.lightnas-edge belongs to root", "sudo chown -R u: "),
        ({"error": "EACCES", "folder": "/mnt/card"}, "belongs to root", ""),
        ({"error": "EPERM", "owner": "u"}, "Operation not permitted", "chmod"),
        ({"error": "ENOSPC", "free_files": 0}, "no inodes are left", "small files"),
        ({"error": "ENOSPC", "free_files": -1, "free_bytes": 0}, "No space left on device (0 MB", "boards clean"),
        ({"error": "EDQUOT"}, "quota exceeded (19 MB", "boards clean"),
        ({"error": "EROFS"}, "Read-only file system", "dmesg"),
        ({"error": "EIO"}, "Input/output error", ""),
        ({"error": "ENOTHING"}, "Failure", ""),
        ({}, "Failure (19 MB are free there)", ""),
    ],
)
def test_each_cause_has_its_own_remedy(changes, cause, remedy):
    facts = Facts(**(FACTS | changes))

    error = refusal("cannot copy x", "bench", OSError(None, "Failure"), facts, size_bytes=10)

    assert str(error).startswith("cannot copy x on bench: ")
    assert cause in str(error)
    assert remedy in error.hint if remedy else error.hint == ""


@pytest.mark.parametrize("answer", [b"", b"hello", b"{}", b'{"folder": 1}', b"[" * 100_000, b"\xff"])
def test_facts_that_make_no_sense_are_no_facts(answer):
    assert Facts.read(Completed(0, answer, b"")) is None
    error = refusal("cannot copy x", "bench", OSError(errno.EACCES, "Permission denied"), None)
    assert (str(error), error.hint) == ("cannot copy x on bench: Permission denied", "")
