"""Passwords, against paramiko's own server: a real one cannot check them without the system's password file."""

import socket
import threading
import time

import paramiko
import pytest

from devices import AuthenticationError, ssh
from devices.endpoint import resolve
from devices.ssh import session

PASSWORD = "correct horse"


class Door(paramiko.ServerInterface):
    """Lets in whoever has the password."""

    def __init__(self, server, transport):
        self._server, self._seen, self._transport = server, server.seen, transport

    def get_allowed_auths(self, username):
        return "password"

    def check_auth_none(self, username):
        if self._server.closed_doors:
            self._server.closed_doors -= 1
            self._transport.close()
        return paramiko.AUTH_FAILED

    def check_auth_password(self, username, password):
        self._seen.append((username, password))
        return paramiko.AUTH_SUCCESSFUL if password == PASSWORD else paramiko.AUTH_FAILED

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED


class Server:
    def __init__(self):
        self.seen, self._transports = [], []
        self.closed_doors = 0  # how many callers are shut out without a word, as by a board that is starting
        self.key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(client)
            transport.add_server_key(self.key)
            transport.start_server(threading.Event(), Door(self, transport))
            self._transports.append(transport)

    def cut(self):
        for transport in self._transports:
            transport.close()
            transport.join(10)

    def close(self):
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    server = Server()
    (tmp_path / ".ssh").mkdir()
    line = f"[127.0.0.1]:{server.port} {server.key.get_name()} {server.key.get_base64()}\n"
    (tmp_path / ".ssh" / "known_hosts").write_text(line)
    yield server
    server.close()


def cut(server, connection):
    """The server hangs up; the other end is a thread of its own and may hear of it a moment later."""
    link = connection._link
    server.cut()
    deadline = time.monotonic() + 60
    while link.alive:
        assert time.monotonic() < deadline, "the cut link is still taken for a live one"
        time.sleep(0.01)


def connect(server, answers):
    """A connection with a user who gives these answers, and the prompts that they saw."""
    prompts = []

    def ask(question):
        prompts.append(question)
        return answers.pop(0)

    return ssh.SshConnection(resolve(f"nvidia@127.0.0.1:{server.port}"), ask), prompts


def test_a_wrong_password_leads_to_a_second_prompt(server):
    connection, prompts = connect(server, ["wrong", PASSWORD])
    with connection:
        assert prompts == ["password of nvidia@127.0.0.1: "] * 2


def test_three_wrong_passwords_are_enough_and_none_is_repeated(server, caplog, capfd):
    caplog.set_level(0)

    with pytest.raises(AuthenticationError, match="password: refused") as caught:
        connect(server, ["hunter2"] * 5)

    assert len(server.seen) == 3
    messages = (
        str(caught.value) + caught.value.hint + repr(caught.value.__cause__) + caplog.text + "".join(capfd.readouterr())
    )
    assert "hunter2" not in messages


def test_without_a_terminal_there_is_no_prompt_for_a_password(server):
    with pytest.raises(AuthenticationError, match="no terminal to type it in"):
        ssh.connect_ssh(f"nvidia@127.0.0.1:{server.port}")
    assert server.seen == []


def test_a_broken_link_does_not_ask_again(server):
    connection, prompts = connect(server, [PASSWORD])
    with connection:
        cut(server, connection)
        connection._attempt("look", lambda link: link)

    assert len(prompts) == 1
    assert server.seen == [("nvidia", PASSWORD)] * 2


def test_a_board_that_is_just_starting_is_tried_again(server, monkeypatch):
    monkeypatch.setattr(session, "FIRST_PAUSE_S", 0.05)
    connection, prompts = connect(server, [PASSWORD])
    with connection:
        server.closed_doors = 2
        cut(server, connection)
        connection._attempt("look", lambda link: link)

    assert server.closed_doors == 0
    assert len(prompts) == 1


def test_a_board_that_is_just_starting_is_reported_at_first(server):
    server.closed_doors = 1

    with pytest.raises(AuthenticationError, match="closed the connection while keys were tried"):
        connect(server, [PASSWORD])
