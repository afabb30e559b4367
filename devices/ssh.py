"""Boards over SSH (paramiko): files by SFTP, commands as argument lists, a lost link is opened again.

Nothing is installed on the board: an SSH server with SFTP and Python 3.6 are enough.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import itertools
import json
import logging
import os
import shlex
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import paramiko

from devices.connection import DETACH, LONGEST_READ, Completed, default_backend, last_line, too_long
from devices.endpoint import Endpoint, resolve
from devices.errors import AuthenticationError, BoardUnreachableError, HostKeyError
from devices.host_keys import HostKey, check

CONNECT_LIMIT_S = 15.0
ANSWER_LIMIT_S = 30.0  # for any answer of the board; also until unacknowledged data ends a connection
KEEP_ALIVE_S = 15
PATIENCE_S = 300.0  # how long to retry a lost link; a Jetson restarts within a minute
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
BLOCK = 32768  # the largest write or read that every SFTP server accepts
WRITE_BLOCK = BLOCK - 128  # with its header it still fits in one packet of SSH
BATCH_FILES, BATCH_BYTES = 100, 64 << 20  # files that are checked together, and sent again together if the link breaks
LONGEST_OUTPUT = 64 << 20  # of a command
PASSWORD_TRIES = 3

_T = TypeVar("_T")
_log = logging.getLogger("devices")

_ABOUT_PYTHON = "import json, sys; print(json.dumps([sys.executable, sys.version_info[:2]]))"
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


class SshConnection:
    """A board over SSH; connects at once.

    A link that breaks later is opened again, with growing pauses, for up to PATIENCE_S. Only a command that was in
    progress when the link broke is not sent again: whether the board executed it is unknown.

    Args:
        endpoint: where to connect.
        ask: prompts the user for a password or a passphrase; None: no terminal.

    Raises:
        HostKeyError: the board's host key is unknown, has changed or is revoked.
        AuthenticationError: neither keys nor passwords were accepted.
        BoardUnreachableError: nothing answers.
    """

    agent_options: tuple[str, ...] = ()
    poll_s = 1.0  # each poll costs the board some work while it measures

    def __init__(self, endpoint: Endpoint, ask: Callable[[str], str] | None = None) -> None:
        self.name = endpoint.label
        self.endpoint = endpoint
        self._secrets = _Secrets(ask)
        self._link: _Link | None = None
        self._python: str | None = None
        self._home: str | None = None
        self._connected()

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def backend(self) -> str:
        return default_backend(self)

    # Commands

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        try:
            link = self._attempt(f"cannot run {argv[0]}", lambda link: link)
            return link.run(argv, timeout_s=timeout_s, stdin=stdin)
        except BoardUnreachableError:
            raise
        except (OSError, EOFError, paramiko.SSHException) as err:
            self.close()
            raise BoardUnreachableError(
                f"the connection to {self.name} broke while {argv[0]} ran: {_reason(err)}",
                hint="run the same command again",
            ) from err

    def start(self, argv: Sequence[str], *, log: str, output: str) -> None:
        ended = self.run([self.python(), "-c", DETACH, log, output, *argv], timeout_s=60)
        if ended.returncode != 0:
            text = ended.stderr.decode(errors="replace").strip() or f"exit code {ended.returncode}"
            raise BoardUnreachableError(f"cannot start {argv[0]} on {self.name}: {text.splitlines()[-1]}")

    def home(self) -> str:
        if self._home is None:
            folder = self._attempt("cannot find the home folder", lambda link: link.sftp().normalize("."))
            self._home = f"{folder.rstrip('/')}/.lightnas-edge"
        return self._home

    def python(self) -> str:
        if self._python is None:
            self._python = self._find_python()
        return self._python

    def signal(self, pid: int, signum: int) -> bool:
        # Read over SFTP, without starting a process: the board measures meanwhile.
        state = self._attempt(f"cannot look at process {pid}", lambda link: _process_state(link.sftp(), pid))
        if state is None or state in "ZX":
            return False
        if signum == 0:
            return True
        ended = self.run(["kill", f"-{signal.Signals(signum):d}", str(int(pid))], timeout_s=ANSWER_LIMIT_S)
        return ended.returncode == 0

    # Files

    def put(self, local: Path, remote: str) -> None:
        self.put_all([(local, remote)])

    def put_all(self, files: Sequence[tuple[Path, str]]) -> None:
        python = self.python()
        for batch in _batches(files):
            parts: list[str] = []
            try:
                self._attempt(
                    f"cannot copy {batch[0][0].name} to {batch[0][1]}", partial(self._put, python, batch, parts)
                )
            except KeyboardInterrupt:
                with contextlib.suppress(BoardUnreachableError):
                    self._attempt("cannot remove what was sent", partial(_remove_all, parts))
                raise

    def read(self, remote: str, offset: int = 0, *, limit: int = LONGEST_READ) -> bytes:
        def read(link: _Link) -> bytes:
            content = bytearray()
            with link.sftp().open(remote, "rb") as file:
                file.seek(offset)
                while len(content) <= limit and (block := file.read(BLOCK)):
                    content += block
            return bytes(content)

        content = self._attempt(f"cannot read {remote}", read)
        if len(content) > limit:
            raise too_long(remote, self.name, limit)
        return content

    def sha256(self, remote: str, length: int | None = None) -> str:
        python = self.python()
        return self._attempt(f"cannot check {remote}", lambda link: link.sha256(python, [(remote, length)])[0])

    def exists(self, remote: str) -> bool:
        return self._attempt(f"cannot look at {remote}", lambda link: _stat(link.sftp(), remote)) is not None

    def size(self, remote: str) -> int:
        return self._attempt(f"cannot read {remote}", lambda link: link.sftp().stat(remote).st_size or 0)

    def listdir(self, remote: str) -> dict[str, int]:
        entries = self._attempt(f"cannot list {remote}", lambda link: link.sftp().listdir_attr(remote))
        return {entry.filename: entry.st_size or 0 for entry in entries}

    def remove(self, remote: str) -> None:
        def remove(link: _Link) -> None:
            with contextlib.suppress(FileNotFoundError):
                link.sftp().remove(remote)

        self._attempt(f"cannot remove {remote}", remove)

    def mkdir(self, remote: str) -> None:
        def mkdir(link: _Link) -> None:
            for folder in [*reversed(PurePosixPath(remote).parents), PurePosixPath(remote)][1:]:
                found = _stat(link.sftp(), str(folder))
                if found is None:
                    with contextlib.suppress(OSError):  # another process may make it; a real refusal shows below
                        link.sftp().mkdir(str(folder), 0o755)
                    found = link.sftp().stat(str(folder))
                if not stat.S_ISDIR(found.st_mode or 0):
                    raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")

        self._attempt(f"cannot make the folder {remote}", mkdir)

    # Inside

    def _put(self, python: str, files: Sequence[tuple[Path, str]], parts: list[str], link: _Link) -> None:
        """Write to a part, check it on the board, rename: no reader sees half a file. `parts`: those still to remove.

        Not `write_atomic`: the file is on the board, and its checksum is computed there.
        """
        sftp = link.sftp()
        _remove_all(parts, link)  # of an earlier attempt that lost its link
        try:
            names = [f"{remote}.part-{os.urandom(4).hex()}" for _, remote in files]
            parts.extend(names)
            sums = [_send(sftp, local, part) for (local, _), part in zip(files, names, strict=True)]
            there = link.sha256(python, [(part, None) for part in names])
            for (local, remote), part, sent, arrived in zip(files, names, sums, there, strict=True):
                if sent != arrived:
                    # paramiko ignores refused writes of a pipelined file: a full disk shows here.
                    size, whole = sftp.stat(part).st_size or 0, local.stat().st_size
                    if size < whole:
                        raise OSError(None, f"only {size} of {whole} bytes could be written")
                    raise BoardUnreachableError(f"{local} arrived damaged as {remote} on {self.name}")
                sftp.posix_rename(part, remote)
                parts.remove(part)
        except Exception as err:
            if link.alive:
                _remove_all(parts, link)
                if isinstance(err, OSError) and not isinstance(err, TimeoutError):
                    raise OSError(err.errno, _reason(err) + _free_space(link, files[0][1])) from err
            raise

    def _find_python(self) -> str:
        board = self.endpoint.board
        chosen = board.python if board is not None else None
        seen: list[str] = []
        for candidate in [chosen] if chosen else ["python3", "/usr/bin/python3", "/usr/local/bin/python3"]:
            asking = partial(_Link.run, argv=[candidate, "-c", _ABOUT_PYTHON], timeout_s=ANSWER_LIMIT_S)
            ended = self._attempt("cannot look for Python", asking)
            if ended.returncode != 0:
                seen.append(f"{candidate}: {ended.stderr.decode(errors='replace').strip()[:200] or 'not found'}")
                continue
            try:
                path, version = json.loads(last_line(ended.stdout))
                known = [int(part) for part in version]
            except (ValueError, TypeError, RecursionError):
                seen.append(f"{candidate}: answers {ended.stdout[:80]!r}")
                continue
            if known >= [3, 6]:
                # As configured: a wrapper sets up what the interpreter behind it needs.
                return chosen or str(path)
            seen.append(f"{candidate}: is {'.'.join(map(str, known))}, too old")
        raise BoardUnreachableError(
            f"no Python 3.6 or newer on {self.name}\n" + "\n".join(f"  {line}" for line in seen),
            hint="JetPack brings one (`sudo apt-get install python3`);\n"
            'one elsewhere is named in boards.toml: python = "/path/to/python3"',
        )

    def _connected(self) -> _Link:
        if self._link is not None and not self._link.alive:
            _log.warning("lost the connection to %s; connecting again", self.name)
            self.close()
        if self._link is None:
            self._link = _Link(self.endpoint, self._secrets)
        return self._link

    def _attempt(self, what: str, operation: Callable[[_Link], _T]) -> _T:
        """Run an operation that may run twice, over a new link if the old one breaks.

        Raises:
            BoardUnreachableError: the board refused, or no link could be opened for PATIENCE_S.
        """
        give_up_s, pause_s = None, FIRST_PAUSE_S
        while True:
            link = None
            try:
                link = self._connected()
                return operation(link)
            except HostKeyError:
                raise
            except KeyboardInterrupt:
                self.close()  # in the middle of a message the stream of this link is out of step
                raise
            except BoardUnreachableError as err:
                refused = isinstance(err, AuthenticationError) and err.__cause__ is None
                if refused or (link is not None and link.alive):
                    raise  # a board that shuts down or starts up closes the connection without a reason: retried
                lost: Exception = err
            except (OSError, EOFError, paramiko.SSHException) as err:
                if link is not None and not isinstance(err, TimeoutError) and not link.broken_by(err):
                    raise BoardUnreachableError(f"{what} on {self.name}: {_reason(err)}") from err
                lost = err
            self.close()
            now_s = time.monotonic()
            if give_up_s is None:
                give_up_s = now_s + PATIENCE_S
                _log.warning("lost the connection to %s; retrying for %.0f s", self.name, PATIENCE_S)
            if now_s + pause_s > give_up_s:
                raise BoardUnreachableError(
                    f"lost the connection to {self.name} and could not restore it within {PATIENCE_S:.0f} s: {_reason(lost)}",
                    hint="the board continues to measure; run the same command again to follow it",
                ) from lost
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def connect_ssh(host: str) -> SshConnection:
    """The board behind a name, an address or an entry of boards.toml; prompts for a password only at a terminal."""
    return SshConnection(resolve(host), getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None)


def fetch_host_key(endpoint: Endpoint) -> HostKey:
    """The host key that a board presents, unchecked: to be shown to the user. The jump hosts before it are checked.

    Raises:
        BoardUnreachableError: nothing answers.
    """
    with contextlib.ExitStack() as stack:
        return _key_of(_negotiate(endpoint, _reach(endpoint, _Secrets(None), stack), stack))


class _Secrets:
    """Passwords and passphrases: one prompt each, kept in memory only."""

    def __init__(self, ask: Callable[[str], str] | None) -> None:
        self._ask = ask
        self._known: dict[str, str] = {}

    @property
    def can_ask(self) -> bool:
        return self._ask is not None

    def known(self, what: str) -> str | None:
        return self._known.get(what)

    def ask(self, what: str) -> str:
        assert self._ask is not None
        return self._ask(f"{what}: ")

    def keep(self, what: str, secret: str) -> None:
        self._known[what] = secret


class _Link:
    """One SSH connection, through its jump hosts."""

    def __init__(self, endpoint: Endpoint, secrets: _Secrets) -> None:
        self._name = endpoint.label
        self._sftp: paramiko.SFTPClient | None = None
        with contextlib.ExitStack() as stack:
            self._transport = _login(endpoint, _reach(endpoint, secrets, stack), secrets, stack)
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
        if self._sftp is None:
            try:
                channel = self._transport.open_session(timeout=ANSWER_LIMIT_S)
                channel.settimeout(ANSWER_LIMIT_S)
                channel.invoke_subsystem("sftp")
                self._sftp = paramiko.SFTPClient(channel)
            except paramiko.SSHException as err:
                if not self._transport.is_active():
                    raise
                raise BoardUnreachableError(
                    f"{self._name} offers no SFTP: {_reason(err)}",
                    hint="on the board: sudo apt-get install openssh-sftp-server",
                ) from err
        return self._sftp

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Run a command to its end.

        SSH transmits one string, which the board's login shell splits: quoted here, and nowhere else.
        """
        ends_s = time.monotonic() + timeout_s
        with self._transport.open_session(timeout=ANSWER_LIMIT_S) as channel:
            channel.settimeout(timeout_s)
            channel.exec_command(shlex.join(argv))
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
                    raise BoardUnreachableError(
                        f"{argv[0]} printed more than {LONGEST_OUTPUT >> 20} MiB on {self._name}"
                    )
                if time.monotonic() > ends_s:
                    raise BoardUnreachableError(f"{argv[0]} did not end within {timeout_s:g} s on {self._name}")
                time.sleep(0.005)
            code = channel.recv_exit_status()
            if code == -1:  # no exit code arrived: the command was killed, or the link has just broken
                self._transport.join(1.0)
                if not self._transport.is_active():
                    raise EOFError("the connection was closed")
            return Completed(code, bytes(output), bytes(errors))

    def sha256(self, python: str, files: Sequence[tuple[str, int | None]]) -> list[str]:
        """Sums of files, or of their first bytes, computed on the board."""
        ended = self.run([python, "-c", _SHA256], timeout_s=600, stdin=json.dumps(files).encode())
        if ended.returncode != 0:
            text = ended.stderr.decode(errors="replace").strip() or f"exit code {ended.returncode}"
            raise OSError(None, text.splitlines()[-1])
        try:
            sums = json.loads(last_line(ended.stdout))
        except (ValueError, RecursionError):
            sums = None
        if not isinstance(sums, list) or len(sums) != len(files) or not all(isinstance(each, str) for each in sums):
            raise OSError(None, f"{python} answers {ended.stdout[:80]!r} where SHA-256 sums were expected")
        return sums


def _login(
    endpoint: Endpoint, sock: socket.socket | paramiko.Channel, secrets: _Secrets, stack: contextlib.ExitStack
) -> paramiko.Transport:
    """An authenticated connection to a host with a known key."""
    transport = _negotiate(endpoint, sock, stack)
    check(
        _key_of(transport),
        endpoint.known_keys(),
        label=endpoint.label,
        address=endpoint.alias,
        board=endpoint.board.name if endpoint.board is not None else None,
    )
    try:
        _authenticate(transport, endpoint, secrets)
    except (paramiko.SSHException, EOFError, OSError) as err:
        raise AuthenticationError(
            f"{endpoint.label} closed the connection while keys were tried: {_reason(err)}",
            hint="too many keys in the agent? name one: IdentityFile and IdentitiesOnly yes in ~/.ssh/config, "
            "or `key` in boards.toml",
        ) from err
    transport.set_keepalive(KEEP_ALIVE_S)
    return transport


def _reach(endpoint: Endpoint, secrets: _Secrets, stack: contextlib.ExitStack) -> socket.socket | paramiko.Channel:
    """The transport of SSH to the endpoint: a socket, or a channel of its last jump host."""
    hops = [*endpoint.jumps, endpoint]
    sock: socket.socket | paramiko.Channel = _socket(hops[0])
    stack.callback(sock.close)
    for hop, following in itertools.pairwise(hops):
        transport = _login(hop, sock, secrets, stack)
        address = (following.host, following.port)
        try:
            sock = transport.open_channel("direct-tcpip", address, ("127.0.0.1", 0), timeout=CONNECT_LIMIT_S)
        except paramiko.SSHException as err:
            raise BoardUnreachableError(
                f"cannot reach {following.host} port {following.port} from {hop.label}: {_reason(err)}"
            ) from err
    return sock


def _socket(endpoint: Endpoint) -> socket.socket:
    host, port = endpoint.host, endpoint.port
    shown = endpoint.label if endpoint.label == host else f"{endpoint.label} ({host} port {port})"
    try:
        sock = socket.create_connection((host, port), timeout=CONNECT_LIMIT_S)
    except socket.gaierror as err:
        hint = "is it in boards.toml, ~/.ssh/config or DNS?"
        if host.endswith(".local"):
            hint = (
                "names in .local need avahi on the board and libnss-mdns here, and do not cross networks\n"
                "over USB a Jetson is 192.168.55.1"
            )
        raise BoardUnreachableError(f"there is no host {shown}: {err.strerror}", hint=hint) from err
    except ConnectionRefusedError as err:
        raise BoardUnreachableError(
            f"{shown} refuses connections",
            hint="does its SSH server run, and on this port? on the board: systemctl status ssh",
        ) from err
    except OSError as err:
        raise BoardUnreachableError(
            f"{shown} does not answer: {err.strerror or err}", hint="is it switched on, and in this network?"
        ) from err
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Without it, a board that was switched off is noticed after 15 minutes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(ANSWER_LIMIT_S * 1000))
    return sock


def _negotiate(
    endpoint: Endpoint, sock: socket.socket | paramiko.Channel, stack: contextlib.ExitStack
) -> paramiko.Transport:
    """Encrypted, not yet authenticated; the host key has not been looked at."""
    try:
        transport = paramiko.Transport(sock)
        stack.callback(transport.close)
        logger = logging.getLogger("devices.paramiko")  # its own: messages about broken links are suppressed
        logger.setLevel(logging.CRITICAL + 1)
        transport.set_log_channel(logger.name)
        transport.banner_timeout = transport.handshake_timeout = CONNECT_LIMIT_S
        transport.auth_timeout = transport.channel_timeout = ANSWER_LIMIT_S
        options = transport.get_security_options()
        known = [name for name in endpoint.known_keys().algorithms if name in options.key_types]
        # Authenticated ciphers need no second pass over the data: files are sent twice as fast.
        quick = [name for name in options.ciphers if "-gcm@" in name]
        options.ciphers = [*quick, *(name for name in options.ciphers if name not in quick)]
        options.key_types = [*known, *(name for name in options.key_types if name not in known)]
        transport.start_client(timeout=CONNECT_LIMIT_S)
    except (paramiko.SSHException, EOFError, OSError) as err:
        raise BoardUnreachableError(f"SSH negotiation with {endpoint.label} failed: {_reason(err)}") from err
    return transport


def _key_of(transport: paramiko.Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def _authenticate(transport: paramiko.Transport, endpoint: Endpoint, secrets: _Secrets) -> None:
    """Named keys, the agent's, the usual files, then a password."""
    tried: list[str] = []
    try:
        transport.auth_none(endpoint.user)
        return
    except paramiko.BadAuthenticationType as err:
        allowed = err.allowed_types
    if "publickey" in allowed:
        for what, key in _keys(endpoint, secrets, tried):
            try:
                if not transport.auth_publickey(endpoint.user, key):
                    return
                tried.append(f"{what}: accepted, but the board wants more than a key")
            except paramiko.AuthenticationException:
                tried.append(f"{what}: refused")
            if not transport.is_active():
                raise EOFError("too many keys were tried")
    if {"password", "keyboard-interactive"} & set(allowed):
        if _log_in_by_password(transport, endpoint, secrets):
            return
        tried.append("password: refused" if secrets.can_ask else "password: no terminal to type it in")
    raise AuthenticationError(
        f"{endpoint.label} refuses the login of {endpoint.user}; it accepts {', '.join(allowed)}\n"
        + "\n".join(f"  {line}" for line in tried or ["no key was found"]),
        hint=f"is {endpoint.user} the user on the board? USER@HOST names another\n"
        f"to install a key: ssh-copy-id -p {endpoint.port} {endpoint.user}@{endpoint.host}",
    )


def _keys(endpoint: Endpoint, secrets: _Secrets, tried: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys to try in order, each with its name; what cannot be loaded is added to `tried`."""
    for path in endpoint.key_files:
        key = _load_key(path, secrets, tried)
        if key is not None:
            yield str(path), key
    if endpoint.only_keys:
        return
    try:
        agent = paramiko.Agent()
    except paramiko.SSHException as err:
        tried.append(f"agent: {_reason(err)}")
    else:
        with contextlib.closing(agent):
            yield from ((f"agent, {key.get_name()}", key) for key in agent.get_keys())
    for name in ("id_ed25519", "id_ecdsa", "id_rsa"):
        path = Path.home() / ".ssh" / name
        if path.is_file() and path not in endpoint.key_files:
            key = _load_key(path, secrets, tried)
            if key is not None:
                yield str(path), key


def _load_key(path: Path, secrets: _Secrets, tried: list[str]) -> paramiko.PKey | None:
    what = f"passphrase of {path}"
    passphrase = secrets.known(what)
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            if not secrets.can_ask:
                tried.append(f"{path}: needs a passphrase; load it into ssh-agent (ssh-add {path})")
                return None
            passphrase = secrets.ask(what)
            try:
                key = kind.from_private_key_file(str(path), passphrase)
            except (paramiko.SSHException, ValueError):
                tried.append(f"{path}: wrong passphrase")
                return None
            secrets.keep(what, passphrase)
            return key
        except (paramiko.SSHException, ValueError):
            continue  # another kind of key
        except OSError as err:
            tried.append(f"{path}: {err.strerror or err}")
            return None
    tried.append(f"{path}: is not a private key in a known format")
    return None


def _log_in_by_password(transport: paramiko.Transport, endpoint: Endpoint, secrets: _Secrets) -> bool:
    what = f"password of {endpoint.user}@{endpoint.host}"
    known = secrets.known(what)
    for _ in range(PASSWORD_TRIES if secrets.can_ask else 0):
        password = known if known is not None else secrets.ask(what)
        known = None
        try:
            transport.auth_password(endpoint.user, password)
        except paramiko.AuthenticationException:
            if not transport.is_active():
                return False
            continue
        secrets.keep(what, password)
        return True
    return False


def _feed(channel: paramiko.Channel, stdin: bytes) -> None:
    """Write a command's input; a command may end without reading it."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        for start in range(0, len(stdin), BLOCK):
            channel.sendall(stdin[start : start + BLOCK])
        channel.shutdown_write()


def _send(sftp: paramiko.SFTPClient, local: Path, part: str) -> str:
    """Copy a file without waiting for the answer to each write; the SHA-256 of the sent bytes."""
    digest = hashlib.sha256()
    with open(local, "rb") as source:
        target = sftp.open(part, "wb")
        target.set_pipelined(True)
        try:
            while block := source.read(WRITE_BLOCK):
                digest.update(block)
                target.write(block)
        except Exception:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                target.close()
            raise
        target.close()  # not when interrupted: it would wait for answers that may never arrive
    return digest.hexdigest()


def _remove_all(parts: list[str], link: _Link) -> None:
    """Remove files that may exist; `boards clean` removes the rest."""
    while parts:
        try:
            link.sftp().remove(parts.pop())
        except (TimeoutError, EOFError, paramiko.SSHException):
            return
        except OSError:
            continue


def _batches(files: Sequence[tuple[Path, str]]) -> Iterator[list[tuple[Path, str]]]:
    batch: list[tuple[Path, str]] = []
    size = 0
    for local, remote in files:
        batch.append((local, remote))
        size += local.stat().st_size
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _stat(sftp: paramiko.SFTPClient, remote: str) -> paramiko.SFTPAttributes | None:
    try:
        return sftp.stat(remote)
    except FileNotFoundError:
        return None


def _process_state(sftp: paramiko.SFTPClient, pid: int) -> str | None:
    """The state letter of a process on the board; None if no such process runs."""
    try:
        with sftp.open(f"/proc/{int(pid)}/stat", "rb") as file:
            text = file.read(4096).decode(errors="replace")
    except FileNotFoundError:
        return None
    return text.rpartition(")")[2].split()[0]


def _free_space(link: _Link, remote: str) -> str:
    """The output of `df`, for a refused write: SFTP has one error code for a full disk and every other failure."""
    try:
        ended = link.run(["df", "-Pk", str(PurePosixPath(remote).parent)], timeout_s=ANSWER_LIMIT_S)
        free_mb = int(ended.stdout.decode().splitlines()[-1].split()[3]) / 1024
    except (BoardUnreachableError, OSError, EOFError, paramiko.SSHException, ValueError, IndexError):
        return ""
    return f" ({free_mb:.0f} MB are free there; `lightnas-edge boards clean` frees what can be sent again)"


def _reason(err: Exception) -> str:
    """An exception's text; several of paramiko's and the socket's have none."""
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return str(err) or {"EOFError": "the connection was closed", "TimeoutError": "no answer in time"}.get(
        type(err).__name__, type(err).__name__
    )
