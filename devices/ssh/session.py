"""A board over SSH: what `Connection` asks for, over links that are opened again when they break."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import paramiko

from devices.connection import LONGEST_READ, Completed
from devices.endpoint import Endpoint, resolve
from devices.errors import AuthenticationError, BoardUnreachableError, HostKeyError
from devices.programs import DETACH, default_backend, last_line, started, too_long
from devices.ssh import transfer
from devices.ssh.authentication import Secrets
from devices.ssh.link import Link
from devices.ssh.reasons import ANSWER_LIMIT_S, reason
from devices.ssh.refusals import FACTS, Facts, refusal

PATIENCE_S = 300.0  # how long to retry a lost link; a Jetson restarts within a minute
HURRIED_S = 10.0  # the same, when somebody waits for the end
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0

_T = TypeVar("_T")
_log = logging.getLogger("devices")

_ABOUT_PYTHON = "import json, sys; print(json.dumps([sys.executable, sys.version_info[:2]]))"


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
        self._secrets = Secrets(ask)
        self._link: Link | None = None
        self._python: str | None = None
        self._home: str | None = None
        self._hurried = threading.Event()
        self._connected()

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def hurry(self) -> None:
        self._hurried.set()

    @property
    def backend(self) -> str:
        return default_backend(self)

    # Commands

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        try:
            # Nothing is sent before the channel is open, so that only this part may run twice.
            link, channel = self._attempt(f"cannot run {argv[0]}", lambda link: (link, link.open_channel()))
            return link.run(argv, timeout_s=timeout_s, stdin=stdin, channel=channel)
        except BoardUnreachableError:
            raise
        except (OSError, EOFError, paramiko.SSHException) as err:
            self.close()
            raise BoardUnreachableError(
                f"the connection to {self.name} broke while {argv[0]} ran: {reason(err)}",
                hint="run the same command again",
            ) from err

    def start(self, argv: Sequence[str], *, log: str, output: str) -> int:
        ended = self.run([self.python(), "-c", DETACH, log, output, *argv], timeout_s=60)
        return started(ended, argv[0], self.name)

    def home(self) -> str:
        if self._home is None:
            self._home = f"{self._attempt('cannot find the home folder', _home_folder)}/.lightnas-edge"
        return self._home

    def python(self) -> str:
        if self._python is None:
            self._python = self._find_python()
        return self._python

    def signal(self, pid: int, signum: int) -> bool:
        # Read over SFTP, without starting a process: the board measures meanwhile.
        state = self._attempt(f"cannot look at process {pid}", lambda link: transfer.process_state(link.sftp(), pid))
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
        for batch in transfer.batches(files):
            parts: list[str] = []
            local, remote = batch[0]
            try:
                self._change(
                    f"cannot copy {local.name} to {remote}",
                    remote,
                    partial(transfer.put, python, batch, parts, self.name),
                    size_bytes=sum(local.stat().st_size for local, _ in batch),
                )
            except KeyboardInterrupt:
                if parts:
                    self.hurry()
                    with contextlib.suppress(BoardUnreachableError):
                        self._attempt("cannot remove what was sent", partial(transfer.remove_all, parts))
                raise

    def read(self, remote: str, offset: int = 0, *, limit: int = LONGEST_READ) -> bytes:
        content = self._attempt(f"cannot read {remote}", partial(transfer.read, remote, offset, limit))
        if len(content) > limit:
            raise too_long(remote, self.name, limit)
        return content

    def read_part(self, remote: str, offset: int, length: int) -> bytes:
        return self._attempt(f"cannot read {remote}", partial(transfer.read, remote, offset, length))[:length]

    def sha256(self, remote: str, length: int | None = None) -> str:
        python = self.python()
        return self._attempt(f"cannot check {remote}", lambda link: link.sha256(python, [(remote, length)])[0])

    def exists(self, remote: str) -> bool:
        return self._attempt(f"cannot look at {remote}", lambda link: transfer.find(link.sftp(), remote)) is not None

    def size(self, remote: str) -> int:
        return self._attempt(f"cannot read {remote}", lambda link: link.sftp().stat(remote).st_size or 0)

    def listdir(self, remote: str) -> dict[str, int]:
        return self._attempt(f"cannot list {remote}", partial(transfer.listdir, self.python, remote))

    def remove(self, remote: str) -> None:
        self._change(f"cannot remove {remote}", remote, partial(transfer.remove, remote))

    def mkdir(self, remote: str) -> None:
        self._change(f"cannot make the folder {remote}", remote, partial(transfer.mkdir, remote))

    # Inside

    def _change(self, what: str, remote: str, operation: Callable[[Link], None], size_bytes: int = 0) -> None:
        """`_attempt` of an operation that writes: a refusal is explained by what the board finds at the path."""

        def explained(link: Link) -> None:
            try:
                operation(link)
            except OSError as err:
                if isinstance(err, TimeoutError) or link.broken_by(err):
                    raise
                raise refusal(what, self.name, err, self._facts(link, remote), size_bytes) from err

        self._attempt(what, explained)

    def _facts(self, link: Link, remote: str) -> Facts | None:
        """What the board finds at a path; None where it has no Python to look with."""
        try:
            return Facts.read(link.ask([self.python(), "-c", FACTS, remote]))
        except BoardUnreachableError:
            return None

    def _find_python(self) -> str:
        board = self.endpoint.board
        chosen = board.python if board is not None else None
        seen: list[str] = []
        for candidate in [chosen] if chosen else ["python3", "/usr/bin/python3", "/usr/local/bin/python3"]:
            asking = partial(Link.ask, argv=[candidate, "-c", _ABOUT_PYTHON])
            ended = self._attempt("cannot look for Python", asking)
            if ended.returncode != 0:
                seen.append(f"{candidate}: {ended.stderr.decode(errors='replace').strip()[:200] or 'not found'}")
                continue
            try:
                path, version = json.loads(last_line(ended.stdout))
                known = [int(part) for part in version]
            except (OverflowError, ValueError, TypeError, RecursionError):
                seen.append(f"{candidate}: answers {ended.stdout[:80]!r}")
                continue
            if known >= [3, 6]:
                # As configured: a wrapper sets up what the interpreter behind it needs.
                return chosen or str(path)
            seen.append(f"{candidate}: is {'.'.join(map(str, known))}, too old")
        self._attempt("cannot run a command", Link.check_shell)
        raise BoardUnreachableError(
            f"no Python 3.6 or newer on {self.name}\n" + "\n".join(f"  {line}" for line in seen),
            hint="JetPack brings one (`sudo apt-get install python3`);\n"
            'one elsewhere is named in boards.toml: python = "/path/to/python3"',
        )

    def _connected(self) -> Link:
        if self._link is not None and not self._link.alive:
            _log.warning("lost the connection to %s; connecting again", self.name)
            self.close()
        if self._link is None:
            self._link = Link(self.endpoint, self._secrets)
        return self._link

    def _attempt(self, what: str, operation: Callable[[Link], _T]) -> _T:
        """Run an operation that may run twice, over a new link if the old one breaks.

        Raises:
            BoardUnreachableError: the board refused, or no link could be opened for PATIENCE_S.
        """
        lost_s, pause_s = None, FIRST_PAUSE_S
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
            except (paramiko.SFTPError, UnicodeError) as err:
                self.close()
                raise BoardUnreachableError(f"{what} on {self.name}: its SFTP server answers wrongly: {err}") from err
            except (OSError, EOFError, paramiko.SSHException) as err:
                if link is not None and not isinstance(err, TimeoutError) and not link.broken_by(err):
                    raise BoardUnreachableError(f"{what} on {self.name}: {reason(err)}") from err
                lost = err
            self.close()
            now_s = time.monotonic()
            hurried = self._hurried.is_set()
            patience_s = min(PATIENCE_S, HURRIED_S) if hurried else PATIENCE_S
            if lost_s is None:
                lost_s = now_s
                _log.warning("lost the connection to %s; retrying for %.0f s", self.name, patience_s)
            if now_s + pause_s > lost_s + patience_s:
                raise BoardUnreachableError(
                    f"lost the connection to {self.name} and could not restore it within {patience_s:.0f} s: {reason(lost)}",
                    hint="the board continues to measure; run the same command again to follow it",
                ) from lost
            if hurried:
                time.sleep(pause_s)
            else:
                self._hurried.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def connect_ssh(host: str) -> SshConnection:
    """The board behind a name, an address or an entry of boards.toml; prompts for a password only at a terminal."""
    return SshConnection(resolve(host), getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None)


def _home_folder(link: Link) -> str:
    """$HOME. SFTP starts in it too, unless the shell's start file has changed the folder."""
    ended = link.ask(["sh", "-c", 'echo "$HOME"'])
    folder = last_line(ended.stdout).decode("utf-8", "surrogateescape")
    if ended.returncode != 0 or not folder.startswith("/"):
        link.check_shell()
        folder = link.sftp().normalize(".")
    return folder.rstrip("/")
