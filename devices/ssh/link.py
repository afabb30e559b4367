"""One SSH connection, through its jump hosts: commands, and its SFTP session."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Sequence

import paramiko

from devices.connection import Completed
from devices.endpoint import Endpoint
from devices.errors import BoardUnreachableError
from devices.host_keys import HostKey
from devices.programs import last_line
from devices.ssh import login_shell
from devices.ssh.authentication import Secrets, login
from devices.ssh.reasons import ANSWER_LIMIT_S, CONNECT_LIMIT_S, reason
from devices.ssh.transport import key_of, negotiate, open_socket

BLOCK = 32768  # the largest write or read that every SFTP server accepts
LONGEST_OUTPUT = 64 << 20  # of a command
_SILENT = "Timeout opening channel."  # as paramiko says it, where others raise TimeoutError

# Reads [[path, length or null], ...], prints their SHA-256 sums. Python 3.6.
_SHA256 = """
import hashlib, json, sys
sums = []
for path, left in json.load(sys.stdin):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while left is None or left > 0:
            block = file.read(1 << 20 if left is None else min(left, 1 << 20))
            if not block:
                break
            digest.update(block)
            left = None if left is None else left - len(block)
    sums.append(digest.hexdigest())
print(json.dumps(sums))
"""


def fetch_host_key(endpoint: Endpoint) -> HostKey:
    """The host key that a board presents, unchecked: to be shown to the user. The jump hosts before it are checked.

    Raises:
        BoardUnreachableError: nothing answers.
    """
    with contextlib.ExitStack() as stack:
        return key_of(negotiate(endpoint, _reach(endpoint, Secrets(None), stack), stack))


class Link:
    """An open connection.

    Raises:
        HostKeyError, AuthenticationError, BoardUnreachableError: as `SshConnection`.
    """

    def __init__(self, endpoint: Endpoint, secrets: Secrets) -> None:
        self._name = endpoint.label
        self._sftp: paramiko.SFTPClient | None = None
        with contextlib.ExitStack() as stack:
            self._transport = login(endpoint, _reach(endpoint, secrets, stack), secrets, stack)
            self._open = stack.pop_all()

    @property
    def alive(self) -> bool:
        if not self._transport.is_active():
            return False
        channel = None if self._sftp is None else self._sftp.get_channel()
        return channel is None or not channel.closed

    def broken_by(self, err: Exception) -> bool:
        """Whether the link is gone. When a stream ends, the transport notices a moment after its readers."""
        give_up_s = time.monotonic() + (1.0 if isinstance(err, EOFError) else 0.0)
        while self.alive and time.monotonic() < give_up_s:
            time.sleep(0.02)
        return not self.alive

    def close(self) -> None:
        self._open.close()

    def sftp(self) -> paramiko.SFTPClient:
        """Raises BoardUnreachableError: the board has no SFTP, or its login shell is at fault."""
        if self._sftp is None:
            channel = self.open_channel()
            try:
                channel.settimeout(ANSWER_LIMIT_S)
                channel.invoke_subsystem("sftp")
                self._sftp = paramiko.SFTPClient(channel)
            except (paramiko.SSHException, paramiko.SFTPError, EOFError, TimeoutError) as err:
                channel.close()
                if not self._transport.is_active():
                    raise
                self.check_shell(err)
                if isinstance(err, TimeoutError):
                    raise
                raise BoardUnreachableError(
                    f"{self._name} offers no SFTP: {reason(err)}",
                    hint="on the board: sudo apt-get install openssh-sftp-server",
                ) from err
        return self._sftp

    def check_shell(self, cause: BaseException | None = None) -> None:
        """Raises BoardUnreachableError: the login shell is at fault for what failed."""
        found = login_shell.fault(lambda command, limit_s: self._execute(command, "echo", limit_s, b""), self._name)
        if found is not None:
            raise found from cause

    def open_channel(self) -> paramiko.Channel:
        """For one command, or for SFTP. Raises TimeoutError: the board is silent; and what a broken link raises."""
        try:
            return self._transport.open_session(timeout=ANSWER_LIMIT_S)
        except paramiko.SSHException as err:
            if str(err) == _SILENT:
                raise TimeoutError(f"no answer for {ANSWER_LIMIT_S:g} s") from err
            raise

    def run(
        self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"", channel: paramiko.Channel | None = None
    ) -> Completed:
        """Raises BoardUnreachableError, and what a broken link raises."""
        return self._execute(login_shell.command_line(argv), argv[0], timeout_s, stdin, channel)

    def ask(self, argv: Sequence[str]) -> Completed:
        """`run` of a command that answers at once: where it does not, the login shell may be the cause."""
        try:
            return self.run(argv, timeout_s=ANSWER_LIMIT_S)
        except BoardUnreachableError as err:
            self.check_shell(err)
            raise

    def sha256(self, python: str, files: Sequence[tuple[str, int | None]]) -> list[str]:
        """Sums of files, or of their first bytes, computed on the board."""
        ended = self.run([python, "-c", _SHA256], timeout_s=600, stdin=json.dumps(files).encode())
        if ended.returncode != 0:
            text = last_line(ended.stderr).decode(errors="replace") or f"exit code {ended.returncode}"
            raise OSError(None, text)
        try:
            sums = json.loads(last_line(ended.stdout))
        except (ValueError, RecursionError):
            sums = None
        if not isinstance(sums, list) or len(sums) != len(files) or not all(isinstance(each, str) for each in sums):
            raise OSError(None, f"{python} answers {ended.stdout[:80]!r} where SHA-256 sums were expected")
        return sums

    def _execute(
        self, command: str, shown: str, timeout_s: float, stdin: bytes, opened: paramiko.Channel | None = None
    ) -> Completed:
        ends_s = time.monotonic() + timeout_s
        with contextlib.closing(opened or self.open_channel()) as channel:
            channel.settimeout(timeout_s)
            channel.exec_command(command)
            feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
            feeder.start()
            output, errors = bytearray(), bytearray()
            while True:
                done = channel.exit_status_ready() and (channel.closed or channel.eof_received)
                got = False
                while channel.recv_ready() and len(output) < LONGEST_OUTPUT:
                    output += channel.recv(1 << 20)
                    got = True
                while channel.recv_stderr_ready() and len(errors) < LONGEST_OUTPUT:
                    errors += channel.recv_stderr(1 << 20)
                    got = True
                if got:
                    continue
                if done:
                    break
                if not self._transport.is_active():
                    raise EOFError("the connection was closed")
                if max(len(output), len(errors)) >= LONGEST_OUTPUT:
                    raise BoardUnreachableError(f"{shown} printed more than {LONGEST_OUTPUT >> 20} MiB on {self._name}")
                if time.monotonic() > ends_s:
                    raise BoardUnreachableError(f"{shown} did not end within {timeout_s:g} s on {self._name}")
                time.sleep(0.005)
            code = channel.recv_exit_status()
            if code == -1:  # no exit code arrived: the command was killed, or the link has just broken
                self._transport.join(1.0)
                if not self._transport.is_active():
                    raise EOFError("the connection was closed")
            return Completed(code, bytes(output), bytes(errors))


def _reach(endpoint: Endpoint, secrets: Secrets, stack: contextlib.ExitStack) -> socket.socket | paramiko.Channel:
    """The transport of SSH to the endpoint: a socket, or a channel of its last jump host."""
    hops = [*endpoint.jumps, endpoint]
    sock: socket.socket | paramiko.Channel = open_socket(hops[0], stack)
    for hop, following in itertools.pairwise(hops):
        transport = login(hop, sock, secrets, stack)
        address = (following.host, following.port)
        try:
            sock = transport.open_channel("direct-tcpip", address, ("127.0.0.1", 0), timeout=CONNECT_LIMIT_S)
        except paramiko.SSHException as err:
            raise BoardUnreachableError(
                f"cannot reach {following.host} port {following.port} from {hop.label}: {reason(err)}"
            ) from err
    return sock


def _feed(channel: paramiko.Channel, stdin: bytes) -> None:
    """Write a command's input; a command may end without reading it."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        for start in range(0, len(stdin), BLOCK):
            channel.sendall(stdin[start : start + BLOCK])
        channel.shutdown_write()
