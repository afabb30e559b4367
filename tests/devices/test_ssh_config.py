"""~/.ssh/config as OpenSSH's client reads it, and what remains without the client."""

import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from devices import BoardUnreachableError, InventoryEntry, add_board, openssh
from devices.endpoint import resolve
from devices.openssh import home_of_account

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh command; apt-get install openssh-client")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def config(home):
    def write(text, name="config"):
        path = home / ".ssh" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def without_client(monkeypatch):
    monkeypatch.setattr(openssh.shutil, "which", lambda program: None)


def where(text):
    found = resolve(text)
    return found.user, found.host, found.port


# Each as a user wrote it: what ssh does with it was tried by hand with `ssh -G`.
FILES = {
    "comments behind values": (b"Host jet   # the bench\n  HostName 10.0.0.1 # over USB\n  User nvidia # kit\n", "jet", ("nvidia", "10.0.0.1", 22)),
    "a comment that is not UTF-8": (b"# K\xfcche\nHost jet\n  HostName 10.0.0.1\n  User u\n", "jet", ("u", "10.0.0.1", 22)),
    "a quoted value": (b'Host jet\n  HostName "10.0.0.1"\n  User "u"\n', "jet", ("u", "10.0.0.1", 22)),
    "line ends of Windows": (b"Host jet\r\n  HostName 10.0.0.1\r\n  User u\r\n", "jet", ("u", "10.0.0.1", 22)),
    "tabs and equals signs": (b"Host=jet\n\tHostName=10.0.0.1\n\tUser = u\n", "jet", ("u", "10.0.0.1", 22)),
    "an excluded name": (b"Host * !jet\n  Port 1\nHost jet\n  HostName 10.0.0.1\n  User u\n", "jet", ("u", "10.0.0.1", 22)),
    "canonical names": (b"CanonicalizeHostname yes\nCanonicalDomains lab.example\nHost jet\n  HostName 127.0.0.1\n  User u\n", "jet", ("u", "127.0.0.1", 22)),
    "Match final all": (b"Host jet\n  HostName 10.0.0.1\n  User u\nMatch final all\n  Port 2200\n", "jet", ("u", "10.0.0.1", 2200)),
    "Match host with an equals sign": (b"Match host=jet\n  HostName 10.0.0.1\n  User u\n", "jet", ("u", "10.0.0.1", 22)),
    "Match of the typed user": (b"Match user nvidia\n  Port 2222\nHost jet\n  HostName 10.0.0.1\n", "nvidia@jet", ("nvidia", "10.0.0.1", 2222)),
    "Match of the name as typed": (b"Host jet\n  HostName 10.0.0.1\n  User u\nMatch originalhost jet\n  Port 7\n", "jet", ("u", "10.0.0.1", 7)),
    "Match of a command": (b'Match host jet exec "test %h = jet"\n  HostName 10.0.0.1\n  User u\n', "jet", ("u", "10.0.0.1", 22)),
    "the first value counts": (b"Host jet\n  Port 3\n  HostName 10.0.0.1\n  User u\nHost *\n  Port 4\n", "jet", ("u", "10.0.0.1", 3)),
    "a token in HostName": (b"Host jet\n  HostName %h.lab.example\n  User u\n", "jet", ("u", "jet.lab.example", 22)),
}  # fmt: skip


@needs_ssh
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_ssh_reads_it(config, name):
    text, host, expected = FILES[name]
    path = config(text)

    assert where(host) == expected

    shown = subprocess.run(["ssh", "-F", path, "-G", host], capture_output=True, text=True, check=True).stdout
    theirs = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    assert (theirs["user"], theirs["hostname"], int(theirs["port"])) == expected


@needs_ssh
def test_an_included_file_does_not_change_the_block_that_includes_it(config):
    config("Host work\n  HostName 10.0.0.1\n  User bob\n", "config.d/work")
    config("Include config.d/*\nUser nvidia\nPort 2222\n")

    assert where("jet") == ("nvidia", "jet", 2222)
    assert where("work") == ("bob", "10.0.0.1", 2222)


@needs_ssh
def test_files_are_included_by_home_and_by_several_patterns_and_inside_a_host(home, config):
    config("User deep\n", "deep")
    config("Include ~/.ssh/deep\n", "one")
    config("Port 9\n", "a b")
    config('Host jet\n  Include one "a b" nothing-*\nHost *\n  User other\n')

    assert where("jet") == ("deep", "jet", 9)
    assert where("tx2") == ("other", "tx2", 22)


@needs_ssh
def test_a_mistake_in_the_file_is_reported_with_its_line(config):
    path = config("Host jet\n  Hostnam 10.0.0.1\n")

    with pytest.raises(BoardUnreachableError, match="line 2: Bad configuration option: hostnam") as caught:
        resolve("jet")
    assert str(path) in str(caught.value)


@needs_ssh
def test_a_command_of_match_that_hangs_is_given_up_and_ended(home, config, monkeypatch, tools):
    monkeypatch.setattr(openssh, "CLIENT_LIMIT_S", 0.5)
    config(f'Match exec "echo $$ > {home}/pid; exec sleep 600"\n  Port 1\n')

    with pytest.raises(BoardUnreachableError, match=r"did not end within 0\.5 s") as caught:
        resolve("jet")

    assert "Match exec" in caught.value.hint
    pid = int((home / "pid").read_text())
    tools.wait_for(
        lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text(), "its end"
    )


@needs_ssh
def test_a_command_of_match_that_runs_this_program_does_not_run_it_for_ever(home, config):
    script = home / "again.py"
    script.write_text(
        "import pathlib, sys\n"
        "from devices.endpoint import resolve\n"
        f"pathlib.Path('{home}/calls').open('a').write('call ')\n"
        "resolve('jet')\n"
    )
    root = Path(openssh.__file__).parents[1]
    config(f'Match exec "cd {root} && {sys.executable} {script} 2> {home}/errors"\n  Port 9\nHost jet\n  Port 5\n')

    assert where("jet")[2] == 5

    assert (home / "calls").read_text() == "call "
    assert "runs this program in `Match exec`" in (home / "errors").read_text()


@needs_ssh
def test_tokens_and_variables_in_key_files_are_expanded(home, config, monkeypatch):
    monkeypatch.setenv("KEYS", "/keys")
    config(
        "Host jet\n  HostName 10.0.0.1\n  User u\n  Port 7\n"
        "  IdentityFile ~/.ssh/%h-%n-%p-%r\n  IdentityFile %d/x%%y\n  IdentityFile ${KEYS}/%u\n  IdentityFile %L.key\n"
    )

    names = [str(path) for path in resolve("jet").key_files]

    assert names == [
        f"{home}/.ssh/10.0.0.1-jet-7-u", f"{home}/x%y", f"/keys/{getpass.getuser()}", f"{socket.gethostname().partition('.')[0]}.key",
    ]  # fmt: skip


@needs_ssh
def test_a_variable_that_is_not_set_is_named(config, monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    config("IdentityFile ${NO_SUCH_VARIABLE}/key\n")

    with pytest.raises(BoardUnreachableError, match="NO_SUCH_VARIABLE"):
        resolve("jet")


@needs_ssh
def test_usual_keys_and_named_ones_are_kept_apart(home, config):
    assert not resolve("jet").keys_named
    assert home / ".ssh" / "id_ed25519" in resolve("jet").key_files

    config("IdentityFile ~/.ssh/id_ed25519\n")
    assert resolve("jet").keys_named
    assert resolve("jet").key_files == (home / ".ssh" / "id_ed25519",)

    config("IdentityFile none\n")
    assert resolve("jet").key_files == ()
    assert resolve("jet").keys_named


@needs_ssh
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("none", None),
        ("SSH_AUTH_SOCK", "/run/usual"),
        ("$OTHER_SOCK", "/run/other"),
        ("${OTHER_SOCK}.2", "/run/other.2"),
        ('"/run/my agent.sock"', "/run/my agent.sock"),
    ],
)
def test_the_agent_is_the_one_that_the_file_names(config, monkeypatch, setting, expected):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/usual")
    monkeypatch.setenv("OTHER_SOCK", "/run/other")
    config(f"Host jet\n  IdentityAgent {setting}\n")

    assert resolve("jet").agent == expected
    assert resolve("tx2").agent == "/run/usual"


@needs_ssh
def test_proxies_named_none_are_no_proxies(config):
    config("Host jet\n  ProxyJump none\n  ProxyCommand none\nHost *\n  ProxyJump gate\n")

    assert resolve("jet").jumps == ()
    assert resolve("jet").proxy_command == ""


@needs_ssh
def test_a_proxy_command_gets_its_tokens(config):
    config("Host jet\n  HostName 10.0.0.1\n  User u\n  ProxyCommand nc -X 5 %h %p # %% %r\n")

    assert resolve("jet:77").proxy_command.startswith("nc -X 5 10.0.0.1 77")


@needs_ssh
def test_a_jump_host_gets_its_tokens(config):
    config("Host jet\n  HostName 10.0.0.1\n  User u\n  ProxyJump jump-%n\n")

    assert [jump.host for jump in resolve("jet").jumps] == ["jump-jet"]


@needs_ssh
@pytest.mark.parametrize("host", ["$(touch${IFS}x)", "a;b", "`id`", "a|b"])
def test_no_name_becomes_shell_text_in_a_proxy_command(config, host):
    config("ProxyCommand nc %h %p\n")

    with pytest.raises(BoardUnreachableError):
        resolve(host)


@needs_ssh
def test_a_user_with_shell_characters_is_no_part_of_a_proxy_command(config):
    config("ProxyCommand nc -l %r %h %p\n")

    with pytest.raises(BoardUnreachableError):
        resolve("$(id)@jet")


@needs_ssh
def test_boards_toml_is_what_match_user_sees(config):
    config("Match user nvidia\n  HostName 10.0.0.7\n")
    add_board(InventoryEntry(name="nano", host="jet", user="nvidia"))

    assert where("nano") == ("nvidia", "10.0.0.7", 22)


@needs_ssh
def test_known_hosts_of_the_whole_system_count_too(config):
    config("Host jet\n  GlobalKnownHostsFile /etc/lab_hosts\n")

    assert Path("/etc/lab_hosts") in resolve("jet").known_hosts
    assert Path("/etc/ssh/ssh_known_hosts") in resolve("tx2").known_hosts


@needs_ssh
def test_a_known_hosts_file_with_a_blank_in_its_name_is_one_file(home, config):
    (home / "my hosts").write_text("")
    config(f'UserKnownHostsFile "{home}/my hosts" {home}/other\n')

    assert resolve("jet").known_hosts[:2] == (home / "my hosts", home / "other")


@needs_ssh
def test_paths_below_the_accounts_home_follow_the_home_variable(home, config):
    if home_of_account() == home:
        pytest.skip("HOME is the account's home")
    config("UserKnownHostsFile ~/hosts\n")

    assert resolve("jet").known_hosts[0] == home / "hosts"


# Without the client


def test_without_the_client_a_simple_file_is_read_and_a_warning_names_the_rest(config, without_client, caplog):
    path = config(b"# K\xfcche\nHost jet\n  HostName 10.0.0.1\n  User u\n  Port 7\n  IdentityFile ~/.ssh/k\n")

    assert where("jet") == ("u", "10.0.0.1", 7)

    assert str(path) in caplog.text
    assert "ssh command is not installed" in caplog.text
    assert "CanonicalizeHostname" in caplog.text
    assert "openssh-client" in caplog.text


def test_without_the_client_and_without_a_file_there_is_no_warning(home, without_client, caplog):
    assert resolve("jet").host == "jet"
    assert caplog.text == ""


def test_without_the_client_what_cannot_be_read_is_an_error_with_the_remedy(config, without_client):
    config("Match final all\n  Port 1\n")

    with pytest.raises(BoardUnreachableError, match="without the ssh command") as caught:
        resolve("jet")
    assert "openssh-client" in caught.value.hint


@needs_ssh
def test_a_name_of_bytes_that_are_no_text_is_hashed_as_it_is(config):
    config(b"Host jet\n  IdentityFile ~/.ssh/%C\n  User \xb7\xf0\n")
    whole = os.fsencode(socket.gethostname()) + b"jet22\xb7\xf0"

    assert [key.name for key in resolve("jet").key_files] == [hashlib.sha1(whole).hexdigest()]


@needs_ssh
def test_paths_of_any_length_are_names_of_files_that_are_missing(config):
    config("Host jet\n  UserKnownHostsFile ~/.ssh/known " + "9" * 400 + "\n")

    assert {"known", "9" * 400} <= {path.name for path in resolve("jet").known_hosts}


def test_a_key_of_an_unknown_user_is_missing_and_a_null_byte_is_an_error(config, without_client):
    config("Host bad\n  IdentityFile ~\0/id\n")
    board = InventoryEntry(name="bench", host="192.168.55.1", key="~nobody-at-all/id")

    assert [str(key) for key in resolve("bench", board).key_files] == ["~nobody-at-all/id"]
    with pytest.raises(BoardUnreachableError, match="is no name of a file"):
        resolve("bad")
