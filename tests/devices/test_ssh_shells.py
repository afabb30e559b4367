"""Login shells as people have them: csh, fish, restricted ones, and start files that print, end, hang or start others.

The server starts its SFTP program through the login shell, as JetPack's does.
"""

import json
import os
import shutil

import pytest

import devices
from devices import AgentFailedError, BoardUnreachableError, Campaign
from devices.ssh import link, login_shell, session
from tests.devices.sshd import SFTP_SERVER, Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper

pytestmark = [
    needs_sshd,
    pytest.mark.skipif(not SFTP_SERVER.exists(), reason="no external sftp-server; apt-get install openssh-sftp-server"),
]

AWKWARD = [
    "two words",
    "$HOME",
    "`id`",
    "it's",
    '"',
    "a;b|c&d",
    "*",
    "line\nbreak",
    "",
    "-n",
    "ü",
    "!!",
    "a!b",
    "\\n",
    "\\\\",
    "=ls",
    "~",
]


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a board with a login shell; without one, bash with a start file of these lines."""
    public = set_up_user(tmp_path / "user", monkeypatch)
    monkeypatch.setattr(session, "FIRST_PAUSE_S", 0.05)
    servers = []

    def start(*start_file, shell=None):
        rc = tmp_path / "start-file"
        rc.write_text("\n".join(start_file) + "\n")
        server = Sshd(tmp_path / "board", public, shell=shell or ["env", "SHLVL=2", f"BASH_ENV={rc}", "bash"]).start()
        (tmp_path / "user" / ".ssh" / "known_hosts").write_text(server.known_hosts_line)
        login, _, port = server.address.replace(":", "@").split("@")
        devices.add_board(
            devices.InventoryEntry(
                name="bench", host="127.0.0.1", user=login, port=int(port),
                python=str(write_python_wrapper(tmp_path / "python3")),
            )
        )  # fmt: skip
        servers.append(server)
        return server

    yield start
    for server in servers:
        end_agents(server)
        server.stop()


def refusal():
    """What a first use of the board ends in."""
    with devices.connect("bench") as connection, pytest.raises(BoardUnreachableError) as caught:
        connection.mkdir(connection.home())
        connection.python()
    return caught.value


SHELLS = ["sh", "bash", "dash", "tcsh", "csh", "zsh", "fish", "ksh"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell_passes_arguments_as_they_are_and_runs_jobs(serve, write_job, tmp_path, tools, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}; apt-get install {shell}")
    board = serve(shell=[shell])

    with devices.connect("bench") as connection:
        ended = connection.run(
            [connection.python(), "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *AWKWARD], timeout_s=30
        )
        assert json.loads(ended.stdout) == AWKWARD
        assert connection.home() == f"{board.home}/.lightnas-edge"
        (tmp_path / "local").write_bytes(os.urandom(100_000))
        connection.put(tmp_path / "local", f"{board.home}/a file's name!")
        assert connection.read(f"{board.home}/a file's name!") == (tmp_path / "local").read_bytes()


def test_a_job_runs_under_csh(serve, write_job, tmp_path, tools):
    if shutil.which("tcsh") is None:
        pytest.skip("no tcsh; apt-get install tcsh")
    serve(shell=["tcsh"])

    with devices.connect("bench") as connection:
        connection.poll_s = 0.05
        campaign = Campaign(connection, write_job())
        campaign.start()
        assert campaign.follow(tmp_path / "t.lut.jsonl").state == "done"
    assert len(tools.lines(tmp_path / "t.lut.jsonl")) == 5


@pytest.mark.parametrize(
    "text", ["Sourced ROS Humble workspace", "\n  Sourced ROS Humble workspace\nand more", "x" * 5000]
)
def test_a_start_file_that_prints_is_named_with_its_first_words(serve, text):
    serve(*(f"echo '{line}'" for line in text.split("\n")))

    error = refusal()

    assert f'the login shell of bench prints text before every command: "{text.split()[0][:40]}' in str(error)
    assert "\n" not in str(error)
    assert "case $- in *i*" in error.hint
    assert "SFTP" not in str(error)


def test_a_start_file_that_prints_to_standard_error_only_does_no_harm(serve):
    board = serve("echo 'a warning' >&2")

    with devices.connect("bench") as connection:
        assert connection.home() == f"{board.home}/.lightnas-edge"
        connection.mkdir(connection.home())


@pytest.mark.parametrize(
    ("start_file", "shell", "words"),
    [
        (["set -e", "false"], None, "(exit code 1)"),
        (["exit 7"], None, "(exit code 7)"),
        (["exec no-such-shell-anywhere"], None, "not found"),
        ([], ["rbash"], "restricted"),
        ([], ["/bin/false"], "(exit code 1)"),
        ([], ["/usr/sbin/nologin"], "not available"),
    ],
)
def test_a_login_shell_that_ends_is_named_and_no_package_is_advised(serve, start_file, shell, words):
    if shell and shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]}")
    serve(*start_file, shell=shell)

    error = refusal()

    assert "the login shell of bench ends before it runs a command" in str(error)
    assert words in str(error)
    assert "start files" in error.hint
    assert "apt-get" not in str(error) + error.hint


@pytest.mark.parametrize("line", ["exec sh", "exec cat", "exec dash -s"])
def test_a_start_file_that_starts_another_shell_is_named_and_not_taken_for_a_lost_link(
    serve, monkeypatch, caplog, line
):
    monkeypatch.setattr(link, "ANSWER_LIMIT_S", 2.0)  # what the test waits for
    serve(line)

    error = refusal()

    assert "the login shell of bench does not run the command that it is given" in str(error)
    assert "case $- in *i*" in error.hint
    assert "lost the connection" not in caplog.text


def test_a_start_file_that_waits_is_named_and_not_taken_for_a_lost_link(serve, monkeypatch, caplog):
    monkeypatch.setattr(link, "ANSWER_LIMIT_S", 2.0)
    monkeypatch.setattr(login_shell, "SHELL_LIMIT_S", 2.0)
    serve("sleep 600")

    error = refusal()

    assert "the login shell of bench runs no command within 2 s" in str(error)
    assert "lost the connection" not in caplog.text


def test_a_start_file_that_changes_the_folder_does_not_move_the_home(serve, tmp_path):
    board = serve(f"cd {tmp_path}")

    with devices.connect("bench") as connection:
        assert connection.home() == f"{board.home}/.lightnas-edge"


def test_a_server_without_sftp_is_reported_as_that(tmp_path, serve):
    board = serve(shell=["sh"])
    board.stop()
    text = board.config.read_text().replace(f"Subsystem sftp {SFTP_SERVER}\n", "")
    board.config.write_text(text)
    board.start()

    error = refusal()

    assert "offers no SFTP" in str(error)
    assert "openssh-sftp-server" in error.hint


def test_a_server_for_files_alone_is_named(serve):
    serve(shell=["sh", "-c", "'exec false'"])

    assert "ends before it runs a command" in str(refusal())


def test_probe_passes_the_cause_on(serve):
    serve("echo hello")

    with devices.connect("bench") as connection, pytest.raises(BoardUnreachableError, match="prints text") as caught:
        devices.probe(connection)
    assert not isinstance(caught.value, AgentFailedError)
