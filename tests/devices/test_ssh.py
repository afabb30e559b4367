"""Files, commands and broken links, over a real OpenSSH server on loopback."""

import json
import os
import signal
import subprocess
import threading

import paramiko
import pytest

import devices
from devices import AuthenticationError, BoardUnreachableError, HostKeyError, ssh
from devices.endpoint import resolve
from devices.ssh import link, session, transfer
from tests.devices.sshd import Sshd, end_agents, make_key, needs_sshd, set_up_user

pytestmark = needs_sshd

AWKWARD = ["two words", "$HOME", "`id`", "it's", '"', "a;b|c&d", "*", "line\nbreak", "", "-n", "ü"]


@pytest.fixture
def public_key(tmp_path, monkeypatch):
    return set_up_user(tmp_path / "user", monkeypatch)


@pytest.fixture
def board(tmp_path, public_key):
    server = Sshd(tmp_path / "board", public_key).start()
    yield server
    end_agents(server)
    server.stop()


@pytest.fixture
def known_hosts(tmp_path, board):
    path = tmp_path / "user" / ".ssh" / "known_hosts"
    path.write_text(board.known_hosts_line)
    return path


@pytest.fixture
def connection(board, known_hosts):
    with devices.connect(board.address) as connection:
        yield connection


# Commands


def test_arguments_arrive_as_they_were_given_whatever_they_hold(connection):
    ended = connection.run(
        [connection.python(), "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *AWKWARD], timeout_s=30
    )

    assert json.loads(ended.stdout) == AWKWARD


def test_input_output_errors_and_the_exit_code_are_reported_apart(connection):
    script = "import sys; data = sys.stdin.read(); print(len(data)); print('bad', file=sys.stderr); sys.exit(3)"

    ended = connection.run([connection.python(), "-c", script], timeout_s=30, stdin=b"x" * 3_000_000)

    assert ended == (3, b"3000000\n", b"bad\n")


def test_much_output_on_both_streams_does_not_block(connection):
    script = "import sys; sys.stdout.write('o' * 5000000); sys.stderr.write('e' * 5000000)"

    ended = connection.run([connection.python(), "-c", script], timeout_s=60)

    assert (len(ended.stdout), len(ended.stderr)) == (5_000_000, 5_000_000)


def test_a_command_that_does_not_end_is_given_up(connection):
    with pytest.raises(BoardUnreachableError, match=r"sleep did not end within 0\.2 s on"):
        connection.run(["sleep", "5"], timeout_s=0.2)


def test_a_started_command_survives_the_connection_and_quotes_nothing_twice(board, connection, tools):
    out = f"{connection.home()} it's here.out"
    script = "import sys, time; time.sleep(0.3); print(sys.argv[1])"

    connection.start([connection.python(), "-c", script, "$HOME 'x'"], log=f"{out}.log", output=out)
    board.cut()

    tools.wait_for(lambda: os.path.exists(out) and os.path.getsize(out), "the output of a detached command")
    assert connection.read(out) == b"$HOME 'x'\n"


def test_a_command_that_cannot_be_started_is_reported(connection):
    with pytest.raises(BoardUnreachableError, match=r"cannot start /no/such/program on .*No such file"):
        connection.start(["/no/such/program"], log=f"{connection.home()}.log", output="/dev/null")


def test_signals_reach_processes_and_their_absence_is_seen(connection, tools):
    pid_file = f"{connection.home()}.pid"
    script = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    connection.start([connection.python(), "-c", script, pid_file], log="/dev/null", output="/dev/null")
    tools.wait_for(lambda: os.path.exists(pid_file) and os.path.getsize(pid_file), "a process id")
    pid = int(connection.read(pid_file))

    assert connection.signal(pid, 0)
    assert connection.signal(pid, signal.SIGTERM)
    tools.wait_for(lambda: not connection.signal(pid, 0), "the end of the process")
    assert not connection.signal(pid, signal.SIGTERM)


# Files


def test_files_arrive_whole_and_leave_no_parts(tmp_path, board, connection):
    sizes = (0, 1, 32768, 32769, 1_000_000)
    folder = f"{connection.home()}/a/b"
    for size in sizes:
        (tmp_path / f"{size}").write_bytes(os.urandom(size))
    connection.mkdir(folder)

    connection.put_all([(tmp_path / f"{size}", f"{folder}/{size}") for size in sizes])

    assert connection.listdir(folder) == {str(size): size for size in sizes}
    assert all(connection.read(f"{folder}/{size}") == (tmp_path / f"{size}").read_bytes() for size in sizes)
    assert connection.home() == f"{board.home}/.lightnas-edge"


def test_reading_continues_from_an_offset(tmp_path, connection):
    remote = f"{connection.home()}-grown"
    (tmp_path / "grown").write_bytes(b"old" * 20_000 + b"new")
    connection.put(tmp_path / "grown", remote)

    assert connection.read(remote, 60_000) == b"new"
    assert connection.read(remote, 60_003) == b""
    assert connection.sha256(remote, 3) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"


def test_a_file_is_replaced_as_a_whole(tmp_path, connection):
    remote = f"{connection.home()}-file"
    for content in (b"first, and longer", b"second"):
        (tmp_path / "local").write_bytes(content)
        connection.put(tmp_path / "local", remote)

    assert connection.read(remote) == b"second"


def test_what_is_not_there_is_reported_by_name(connection):
    assert not connection.exists("/no/such/file")
    connection.remove("/no/such/file")
    with pytest.raises(BoardUnreachableError, match=r"cannot read /no/such/file on .*No such file"):
        connection.read("/no/such/file")


def test_damage_on_the_way_is_noticed_and_nothing_is_replaced(tmp_path, connection, monkeypatch):
    (tmp_path / "local").write_bytes(b"good")
    remote = f"{connection.home()}-file"
    connection.put(tmp_path / "local", remote)
    send = transfer.send

    def damaged(sftp, local, part):
        sent = send(sftp, local, part)
        with sftp.open(part, "r+b") as file:
            file.write(b"B")
        return sent

    monkeypatch.setattr(transfer, "send", damaged)

    with pytest.raises(BoardUnreachableError, match="arrived damaged"):
        connection.put(tmp_path / "local", remote)
    assert connection.read(remote) == b"good"
    assert not [name for name in connection.listdir(os.path.dirname(remote)) if ".part-" in name]


def test_a_full_disk_is_reported_with_what_is_free_and_leaves_no_half_file(tmp_path, public_key):
    board = Sshd(tmp_path / "small", public_key, largest_file=100_000).start()
    (tmp_path / "user" / ".ssh" / "known_hosts").write_text(board.known_hosts_line)
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    try:
        with devices.connect(board.address) as connection:
            with pytest.raises(BoardUnreachableError, match=r"cannot copy large to .* MB are free there"):
                connection.put(tmp_path / "large", f"{board.home}/large")
            assert connection.listdir(str(board.home)) == {}
    finally:
        board.stop()


# Python on the board


def test_a_board_without_python_is_reported_how_to_get_one(board, connection, monkeypatch):
    monkeypatch.setattr(session, "_ABOUT_PYTHON", "import sys; sys.exit('no python here')")

    with pytest.raises(BoardUnreachableError, match=r"no Python 3\.6 or newer") as caught:
        connection.python()
    assert "apt-get install python3" in caught.value.hint


def test_an_old_python_is_not_used(connection, monkeypatch):
    monkeypatch.setattr(session, "_ABOUT_PYTHON", "print('[\"/usr/bin/python3\", [3, 5]]')")

    with pytest.raises(BoardUnreachableError, match=r"is 3\.5, too old"):
        connection.python()


# Broken links


def test_a_broken_link_is_taken_up_again(board, connection, caplog):
    connection.home()
    assert board.cut() > 0

    assert "sshd" not in connection.listdir(str(board.home))
    assert "lost the connection" in caplog.text


def test_a_link_that_breaks_while_files_are_sent_costs_nothing_but_time(tmp_path, board, connection, tools):
    files = []
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(os.urandom(6_000_000))
        files.append((tmp_path / f"{number}", f"{board.home}/{number}"))
    python = connection.python()
    broken = []

    def cut_once_it_flows():
        tools.wait_for(lambda: any(path.stat().st_size for path in board.home.glob("1.part-*")), "the second file")
        broken.append(board.cut())

    cutter = threading.Thread(target=cut_once_it_flows)
    cutter.start()
    connection.put_all(files)
    cutter.join()

    assert broken[0] > 0
    assert python == connection.python()
    for local, remote in files:
        assert connection.read(remote) == local.read_bytes()


@pytest.mark.parametrize("packets", [0, 1, 40])
def test_an_interrupt_in_the_middle_of_a_message_leaves_no_half_file_and_a_board_that_answers(
    tmp_path, board, connection, monkeypatch, packets
):
    (tmp_path / "file").write_bytes(os.urandom(6_000_000))
    connection.python()
    connection.home()
    left = [packets]

    def send_half(self, kind, packet, send=paramiko.SFTPClient._send_packet):
        left[0] -= 1
        if left[0] == -1:
            self.sock.sendall(b"\x00\x00\x01")  # the beginning of a length: the server waits for the rest
            raise KeyboardInterrupt
        return send(self, kind, packet)

    monkeypatch.setattr(paramiko.SFTPClient, "_send_packet", send_half)

    with pytest.raises(KeyboardInterrupt):
        connection.put(tmp_path / "file", f"{board.home}/file")

    assert list(board.home.glob("file*")) == []
    connection.put(tmp_path / "file", f"{board.home}/file")
    assert connection.size(f"{board.home}/file") == 6_000_000


@pytest.mark.parametrize("sent", [[], ["part"]])
def test_an_interrupt_while_a_board_is_out_of_reach_does_not_wait_for_it_once_more(
    tmp_path, board, connection, monkeypatch, sent, caplog
):
    """Of the retries, only the first may be as patient as a user who is away."""
    monkeypatch.setattr(session, "HURRIED_S", 0.5)
    (tmp_path / "file").write_bytes(b"content")
    connection.python()
    monkeypatch.setattr(transfer, "put", lambda python, batch, parts, name, link: _interrupted(parts, sent, board))

    with pytest.raises(KeyboardInterrupt):
        connection.put(tmp_path / "file", f"{board.home}/file")

    said = [record.message for record in caplog.records if "retrying for" in record.message]
    assert len(said) == len(sent) and all("retrying for 0 s" in text for text in said)


def _interrupted(parts, sent, board):
    parts.extend(sent)
    board.stop()
    raise KeyboardInterrupt


def test_a_link_that_falls_silent_is_opened_anew(connection, monkeypatch):
    """A jump host may hold the connection while the board behind it sleeps; paramiko reports it in its own way."""
    connection.home()
    first = connection._connected()
    monkeypatch.setattr(link, "ANSWER_LIMIT_S", 0.5)
    monkeypatch.setattr(first._transport, "_send_user_message", lambda message: None)

    assert connection.run(["echo", "here"], timeout_s=30).stdout == b"here\n"
    assert connection._connected() is not first


def test_a_board_that_restarts_is_waited_for(tmp_path, board, connection, public_key):
    connection.home()
    board.stop()
    back = threading.Timer(1.0, board.start)
    back.start()

    assert connection.exists(str(board.home))
    back.join()


def test_a_board_that_stays_away_is_given_up_and_the_job_is_said_to_continue(board, connection, monkeypatch):
    monkeypatch.setattr(session, "PATIENCE_S", 1.0)
    board.stop()

    with pytest.raises(BoardUnreachableError, match="could not restore it within 1 s") as caught:
        connection.exists("/")
    assert "the board continues to measure" in caught.value.hint


def test_who_waits_for_the_end_makes_it_give_up_within_seconds(board, connection, monkeypatch):
    """It has tried for a while already when Ctrl-C comes."""
    monkeypatch.setattr(session, "HURRIED_S", 0.5)
    board.stop()
    threading.Timer(1.0, connection.hurry).start()

    with pytest.raises(BoardUnreachableError, match="could not restore it within 0 s"):
        connection.exists("/")


def test_a_command_under_way_when_the_link_breaks_is_not_sent_again(board, connection, tools):
    log = board.home / "runs"

    def cut_once_it_runs():
        tools.wait_for(lambda: log.exists() and log.read_text(), "the command")
        board.cut()

    threading.Thread(target=cut_once_it_runs, daemon=True).start()

    with pytest.raises(BoardUnreachableError, match="broke while sh ran"):
        connection.run(["sh", "-c", 'echo once >> "$0"; sleep 2', str(log)], timeout_s=30)
    assert log.read_text() == "once\n"


# Host keys


def test_an_unknown_host_is_refused_with_its_fingerprint_and_what_to_do(board):
    with pytest.raises(HostKeyError) as caught:
        devices.connect(board.address)

    assert board.fingerprint in str(caught.value)
    assert f"lightnas-edge boards add NAME {board.address}" in caught.value.hint
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in caught.value.hint


def test_a_changed_host_key_is_refused_and_both_keys_are_shown(tmp_path, board, known_hosts):
    known_hosts.write_text(f"[127.0.0.1]:{board.port} {make_key(tmp_path / 'other')}")

    with pytest.raises(HostKeyError, match="has changed") as caught:
        devices.connect(board.address)

    assert board.fingerprint in str(caught.value)
    assert f"{known_hosts}:1" in str(caught.value)
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in caught.value.hint


def test_the_host_key_is_checked_again_after_a_broken_link(tmp_path, board, connection):
    connection.home()
    board.stop()
    board.host_key.unlink()
    make_key(board.host_key)
    board.start()

    with pytest.raises(HostKeyError, match="has changed"):
        connection.exists("/")


def test_nothing_is_ever_added_to_known_hosts(board, known_hosts):
    before = known_hosts.read_text()

    devices.connect(board.address).close()

    assert known_hosts.read_text() == before


# Logging in


def test_a_key_that_the_board_does_not_know_is_reported_by_its_name(tmp_path, board, known_hosts):
    (board.folder / "authorized_keys").write_text(make_key(tmp_path / "another"))

    with pytest.raises(AuthenticationError, match="refuses the login") as caught:
        devices.connect(board.address)

    assert "id_ed25519: refused" in str(caught.value)
    assert "ssh-copy-id" in caught.value.hint


def test_a_key_that_only_the_ssh_agent_holds_opens_the_door(tmp_path, board, known_hosts, monkeypatch):
    key = tmp_path / "user" / ".ssh" / "id_ed25519"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL) as agent:
        try:
            for _ in range(1000):
                added = subprocess.run(["ssh-add", "-q", str(key)], capture_output=True, check=False)
                if added.returncode == 0:
                    break
                threading.Event().wait(0.01)
            key.unlink()

            with devices.connect(board.address) as connection:
                assert connection.home() == f"{board.home}/.lightnas-edge"
        finally:
            agent.terminate()


def test_a_closed_port_is_named_in_the_error(board, known_hosts):
    board.stop()

    with pytest.raises(BoardUnreachableError, match="refuses connections"):
        devices.connect(board.address)


def test_an_encrypted_key_needs_somebody_to_ask(tmp_path, board, known_hosts):
    key = tmp_path / "user" / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret words", "-f", str(key)], check=True)
    prompts = []

    def answer(question):
        prompts.append(question)
        return "secret words"

    with pytest.raises(AuthenticationError, match="needs a passphrase; load it into ssh-agent"):
        devices.connect(board.address)
    with ssh.SshConnection(resolve(board.address), answer) as connection:
        board.cut()
        assert connection.exists("/")
    assert prompts == [f"passphrase of {key}: "]


# Ways there


def test_ssh_config_names_host_port_user_and_key(tmp_path, board, known_hosts):
    folder = tmp_path / "user" / ".ssh"
    (folder / "id_ed25519").rename(folder / "board_key")
    user = board.address.split("@")[0]
    (folder / "config").write_text("Include more/*.conf\n")
    (folder / "more").mkdir()
    (folder / "more" / "bench.conf").write_text(
        f"Host bench\n  HostName 127.0.0.1\n  Port {board.port}\n  User {user}\n  IdentityFile ~/.ssh/board_key\n"
    )

    with devices.connect("bench") as connection:
        assert connection.home() == f"{board.home}/.lightnas-edge"


def test_a_board_behind_a_jump_host_is_reached_and_every_key_on_the_way_is_checked(tmp_path, board, public_key):
    jump = Sshd(tmp_path / "jump", public_key).start()
    folder = tmp_path / "user" / ".ssh"
    (folder / "config").write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {board.port}\n  ProxyJump jump\n"
    )
    try:
        (folder / "known_hosts").write_text(board.known_hosts_line)
        with pytest.raises(HostKeyError, match="jump is not a known host"):
            devices.connect("inner")

        (folder / "known_hosts").write_text(board.known_hosts_line + jump.known_hosts_line)
        with devices.connect("inner") as connection:
            assert connection.home() == f"{board.home}/.lightnas-edge"
            assert len(jump.sessions()) > 0
            jump.cut()
            assert connection.exists(str(board.home))
    finally:
        jump.stop()
