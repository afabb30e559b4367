"""Keys as people have them: every format, with a passphrase or in an agent; ssh itself logs in with the same files."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

import devices
from devices import AuthenticationError, BoardUnreachableError, ssh
from devices.endpoint import resolve
from devices.ssh.keys import KeyFileError, PassphraseError, public_half, read_private_key
from tests.devices.sshd import Sshd, make_key, needs_sshd, running_agent, set_up_user

pytestmark = needs_sshd

FORMATS = {
    "ed25519": ("ed25519", ()),
    "rsa": ("rsa", ()),
    "ecdsa": ("ecdsa", ()),
    "ecdsa 521": ("ecdsa", ("-b", "521")),
    "rsa PKCS#8": ("rsa", ("-m", "PKCS8")),
    "ecdsa PKCS#8": ("ecdsa", ("-m", "PKCS8")),
    "rsa PEM": ("rsa", ("-m", "PEM")),
    "ecdsa PEM": ("ecdsa", ("-m", "PEM")),
    "ed25519 with AES-GCM": ("ed25519", ("-Z", "aes256-gcm@openssh.com")),
}


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The folder of a user's keys, empty."""
    set_up_user(tmp_path / "user", monkeypatch)
    folder = tmp_path / "user" / ".ssh"
    for file in folder.iterdir():
        file.unlink()
    return folder


@pytest.fixture
def board(tmp_path, user):
    server = Sshd(tmp_path / "board", "").start()
    (user / "known_hosts").write_text(server.known_hosts_line)
    yield server
    server.stop()


def configure(user, board, *lines, host="jet"):
    login = board.address.split("@")[0]
    text = [f"Host {host}", "HostName 127.0.0.1", f"Port {board.port}", f"User {login}", *lines]
    (user / "config").write_text("\n".join(text) + "\n")


def accept(board, *publics):
    (board.folder / "authorized_keys").write_text("".join(publics))


def ssh_logs_in(user, host="jet", **environment):
    """Whether OpenSSH's own client does, without a terminal."""
    argv = [
        "ssh",
        "-F",
        user / "config",
        "-o",
        f"UserKnownHostsFile={user}/known_hosts",
        "-o",
        "BatchMode=yes",
        host,
        "true",
    ]
    return (
        subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, check=False, env=environment or None
        ).returncode
        == 0
    )


def logs_in(host="jet", answers=()):
    """Connects and runs a command; the prompts that the user saw."""
    left, prompts = list(answers), []

    def answer(question):
        prompts.append(question)
        return left.pop(0)

    with ssh.SshConnection(resolve(host), answer if answers else None) as connection:
        assert connection.run(["echo", "in"], timeout_s=30).stdout == b"in\n"
    return prompts


@pytest.mark.parametrize("name", FORMATS)
def test_a_key_of_every_format_logs_in(user, board, name):
    kind, options = FORMATS[name]
    accept(board, make_key(user / "key", *options, kind=kind))
    configure(user, board, f"IdentityFile {user}/key", "IdentitiesOnly yes")

    assert logs_in() == []


@pytest.mark.parametrize("name", FORMATS)
def test_an_encrypted_key_of_every_format_logs_in_with_its_passphrase(user, board, name):
    kind, options = FORMATS[name]
    accept(board, make_key(user / "key", *options, kind=kind, passphrase="secret"))
    configure(user, board, f"IdentityFile {user}/key", "IdentitiesOnly yes")

    assert logs_in(answers=["wrong", "secret"]) == [f"passphrase of {user}/key: "] * 2
    with pytest.raises(AuthenticationError, match="wrong passphrase"):
        logs_in(answers=["wrong"] * 3)
    with pytest.raises(AuthenticationError, match="needs a passphrase; load it into ssh-agent"):
        logs_in()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_a_key_that_openssl_made_logs_in(user, board):
    key = user / "key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", key], check=True, capture_output=True)
    key.chmod(0o600)
    accept(board, subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, capture_output=True, text=True).stdout)
    configure(user, board, f"IdentityFile {key}")

    assert logs_in() == []


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_next_to_the_key_logs_in(tmp_path, user, kind):
    authority = make_key(tmp_path / "authority")
    make_key(user / "key", kind=kind)
    login = Sshd(tmp_path / "unused", "").address.split("@")[0]
    argv = ["ssh-keygen", "-q", "-s", tmp_path / "authority", "-I", "test", "-n", login, user / "key.pub"]
    subprocess.run(argv, check=True, capture_output=True)
    (tmp_path / "authority.keys").write_text(authority)
    server = Sshd(tmp_path / "certified", "", settings=[f"TrustedUserCAKeys {tmp_path}/authority.keys"]).start()
    (user / "known_hosts").write_text(server.known_hosts_line)
    configure(user, server, f"IdentityFile {user}/key")
    try:
        assert ssh_logs_in(user)
        assert logs_in() == []
    finally:
        server.stop()


def test_files_that_are_no_keys_are_named_with_the_reason(user, board):
    contents = {
        "putty": "PuTTY-User-Key-File-3: ssh-ed25519\n",
        "text": "hello\n",
        "damaged": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        "binary": "\0\1\2",
    }
    for name, content in contents.items():
        (user / name).write_text(content)
    (user / "folder").mkdir()
    configure(user, board, *(f"IdentityFile {user}/{name}" for name in (*contents, "folder", "missing")))

    with pytest.raises(AuthenticationError) as caught:
        logs_in()

    for name, why in {
        "putty": "puttygen", "text": "not a private key", "damaged": "damaged", "binary": "not a private key",
        "folder": "Is a directory", "missing": "No such file",
    }.items():  # fmt: skip
        assert any(f"/{name}: " in line and why in line for line in str(caught.value).splitlines()), name


# The agent


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_named_key_with_a_passphrase_is_taken_from_the_agent(user, board, tmp_path, monkeypatch, kind):
    accept(board, make_key(user / "key", kind=kind, passphrase="secret"))
    configure(user, board, "IdentitiesOnly yes", f"IdentityFile {user}/key")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    with running_agent(tmp_path / "agent", user / "key", passphrase="secret"):
        assert ssh_logs_in(user)
        assert logs_in() == []
        (user / "key.pub").unlink()  # the private file holds the public half too
        assert logs_in() == []


def test_the_key_of_boards_toml_is_taken_from_the_agent(user, board, tmp_path, monkeypatch):
    accept(board, make_key(user / "key", passphrase="secret"))
    login, _, port = board.address.replace(":", "@").split("@")
    devices.add_board(
        devices.InventoryEntry(name="bench", host="127.0.0.1", user=login, port=int(port), key=str(user / "key"))
    )
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    with running_agent(tmp_path / "agent", user / "key", passphrase="secret"):
        assert logs_in("bench") == []


def test_a_public_key_as_identity_selects_a_key_of_the_agent(user, board, tmp_path, monkeypatch):
    others = [user / f"other{number}" for number in range(7)]  # more than the server lets a client try
    for path in others:
        make_key(path)
    accept(board, make_key(user / "key"))
    configure(user, board, "IdentitiesOnly yes", f"IdentityFile {user}/key.pub")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    with running_agent(tmp_path / "agent", *others, user / "key"):
        (user / "key").unlink()
        assert ssh_logs_in(user)
        assert logs_in() == []


def test_a_public_key_without_an_agent_says_what_is_missing(user, board):
    accept(board, make_key(user / "key"))
    configure(user, board, f"IdentityFile {user}/key.pub")

    with pytest.raises(AuthenticationError, match=r"key\.pub: is a public key, and the agent does not have"):
        logs_in()


def test_the_agent_that_the_configuration_names_is_used(user, board, tmp_path, monkeypatch):
    accept(board, make_key(user / "key"))
    configure(user, board, f'IdentityAgent "{tmp_path}/the agent"')
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    with running_agent(tmp_path / "the agent", user / "key"):
        (user / "key").unlink()
        assert ssh_logs_in(user)
        assert logs_in() == []
    with pytest.raises(AuthenticationError, match=r"agent at .*the agent: "):
        logs_in()


def test_identities_only_keeps_other_keys_of_the_agent_out(user, board, tmp_path, monkeypatch):
    accept(board, make_key(user / "key"))
    make_key(user / "named")
    configure(user, board, "IdentitiesOnly yes", f"IdentityFile {user}/named")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    with running_agent(tmp_path / "agent", user / "key"):
        assert not ssh_logs_in(user)
        with pytest.raises(AuthenticationError, match="named: refused"):
            logs_in()


def test_identities_only_without_a_named_key_means_the_usual_files(user, board, tmp_path, monkeypatch):
    make_key(user / "other")
    accept(board, make_key(user / "id_ecdsa", kind="ecdsa", passphrase="secret"))
    configure(user, board, "IdentitiesOnly yes")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    with running_agent(tmp_path / "agent", user / "other", user / "id_ecdsa", passphrase="secret"):
        assert logs_in() == []


# Host keys and algorithms


def test_a_host_key_alias_in_capitals_is_found(user, board):
    accept(board, make_key(user / "id_ed25519"))
    key = Path(f"{board.host_key}.pub").read_text()
    (user / "known_hosts").write_text(f"Jetson-Bench {key}")
    configure(user, board, "HostKeyAlias Jetson-Bench", f"IdentityFile {user}/id_ed25519")

    assert ssh_logs_in(user)
    assert logs_in() == []


def test_a_hashed_name_in_capitals_is_found(user, board):
    accept(board, make_key(user / "id_ed25519"))
    (user / "known_hosts").write_text(f"jetson-bench {Path(f'{board.host_key}.pub').read_text()}")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", user / "known_hosts"], check=True, capture_output=True)
    configure(user, board, "HostKeyAlias Jetson-Bench", f"IdentityFile {user}/id_ed25519")

    assert logs_in() == []


@pytest.mark.parametrize(
    ("setting", "theirs", "ours"),
    [
        ("Ciphers chacha20-poly1305@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"),
        ("Ciphers 3des-cbc", "3des-cbc", "aes256-ctr"),
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "sntrup761x25519-sha512@openssh.com", "curve25519-sha256"),
        ("MACs hmac-md5\nCiphers aes256-ctr", "hmac-md5", "hmac-sha2-256"),
    ],
)  # fmt: skip
def test_without_a_common_algorithm_both_sides_lists_are_shown(tmp_path, user, setting, theirs, ours):
    server = Sshd(tmp_path / "odd", make_key(user / "id_ed25519"), settings=[setting]).start()
    (user / "known_hosts").write_text(server.known_hosts_line)
    try:
        with pytest.raises(BoardUnreachableError, match="no common algorithm") as caught:
            devices.connect(server.address)
    finally:
        server.stop()

    board_has, we_have = str(caught.value).splitlines()[-1].split("; this program has ")
    assert theirs in board_has
    assert ours in we_have
    assert "3des" not in we_have
    assert "md5" not in we_have
    assert "sshd_config" in caught.value.hint


# ProxyCommand


@pytest.mark.skipif(shutil.which("nc") is None and shutil.which("socat") is None, reason="neither nc nor socat")
def test_a_proxy_command_carries_the_connection(user, board):
    accept(board, make_key(user / "id_ed25519"))
    command = "nc %h %p" if shutil.which("nc") else "socat - TCP:%h:%p"
    configure(user, board, f"ProxyCommand {command}", f"IdentityFile {user}/id_ed25519")

    assert ssh_logs_in(user)
    assert logs_in() == []


def test_a_jump_through_ssh_itself_is_a_proxy_command_like_any_other(tmp_path, user, board):
    public = make_key(user / "id_ed25519")
    accept(board, public)
    gate = Sshd(tmp_path / "gate", public).start()
    (user / "known_hosts").write_text(board.known_hosts_line + gate.known_hosts_line)
    login = gate.address.split("@")[0]
    inner = f"ssh -F none -i {user}/id_ed25519 -o UserKnownHostsFile={user}/known_hosts -p {gate.port} -W %h:%p {login}@127.0.0.1"
    configure(user, board, f"ProxyCommand {inner}")
    try:
        assert logs_in() == []
        deadline_s = time.monotonic() + 20
        while gate.sessions() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert gate.sessions() == []  # the command has ended with the connection
    finally:
        gate.stop()


def test_a_proxy_command_that_fails_is_reported(user, board):
    accept(board, make_key(user / "id_ed25519"))
    configure(user, board, "ProxyCommand exit 3")

    with pytest.raises(BoardUnreachableError, match="through ProxyCommand exit 3"):
        logs_in()


# Files alone


def test_reading_a_key_asks_for_a_passphrase_only_where_it_has_one(tmp_path):
    make_key(tmp_path / "open")
    make_key(tmp_path / "closed", passphrase="secret")

    assert read_private_key(tmp_path / "open", "not needed").get_name() == "ssh-ed25519"
    with pytest.raises(PassphraseError):
        read_private_key(tmp_path / "closed", None)
    assert public_half(tmp_path / "closed") == public_half(tmp_path / "closed.pub")
    with pytest.raises(KeyFileError, match="No such file"):
        read_private_key(tmp_path / "none", None)
