"""This machine as a board."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from devices.connection import LONGEST_READ, Completed
from devices.errors import BoardUnreachableError
from devices.programs import DETACH, default_backend, started, too_long
from lightnas_edge.files import sha256_of_file, sha256_of_start

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LocalConnection:
    """This machine as a board. LIGHTNAS_EDGE_HOME names the agent's folder; ~/.lightnas-edge otherwise."""

    name = "localhost"
    poll_s = 0.25
    agent_options: tuple[str, ...] = ()

    def hurry(self) -> None:
        """It is always within reach."""

    @property
    def backend(self) -> str:
        return default_backend(self)

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        try:
            ended = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as err:
            raise BoardUnreachableError(f"{argv[0]} did not end within {timeout_s:g} s on {self.name}") from err
        except OSError as err:
            raise _unreachable(f"cannot run {argv[0]}", err) from err
        return Completed(ended.returncode, ended.stdout, ended.stderr)

    def start(self, argv: Sequence[str], *, log: str, output: str) -> int:
        return started(self.run([sys.executable, "-c", DETACH, log, output, *argv], timeout_s=60), argv[0], self.name)

    def home(self) -> str:
        return os.path.abspath(os.environ.get("LIGHTNAS_EDGE_HOME") or os.path.expanduser("~/.lightnas-edge"))

    def python(self) -> str:
        return sys.executable

    def put(self, local: Path, remote: str) -> None:
        # Not `write_atomic`: a file of any size is copied without reading it whole, and checked as on other boards.
        part = f"{remote}.part-{os.getpid()}"
        try:
            shutil.copyfile(local, part)
            if sha256_of_file(Path(part)) != sha256_of_file(local):
                raise BoardUnreachableError(f"{local} arrived damaged as {part}")
            os.replace(part, remote)
        except OSError as err:
            raise _unreachable(f"cannot copy {local} to {remote}", err) from err
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)

    def put_all(self, files: Sequence[tuple[Path, str]]) -> None:
        for local, remote in files:
            self.put(local, remote)

    def sha256(self, remote: str, length: int | None = None) -> str:
        try:
            return sha256_of_start(Path(remote), length)
        except OSError as err:
            raise _unreachable(f"cannot read {remote}", err) from err

    def read(self, remote: str, offset: int = 0, *, limit: int = LONGEST_READ) -> bytes:
        try:
            with open(remote, "rb") as file:
                file.seek(offset)
                content = file.read(limit + 1)
        except OSError as err:
            raise _unreachable(f"cannot read {remote}", err) from err
        if len(content) > limit:
            raise too_long(remote, self.name, limit)
        return content

    def read_part(self, remote: str, offset: int, length: int) -> bytes:
        try:
            with open(remote, "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as err:
            raise _unreachable(f"cannot read {remote}", err) from err

    def exists(self, remote: str) -> bool:
        return os.path.exists(remote)

    def size(self, remote: str) -> int:
        try:
            return os.path.getsize(remote)
        except OSError as err:
            raise _unreachable(f"cannot read {remote}", err) from err

    def listdir(self, remote: str) -> dict[str, int]:
        try:
            with os.scandir(remote) as entries:
                return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
        except OSError as err:
            raise _unreachable(f"cannot list {remote}", err) from err

    def remove(self, remote: str) -> None:
        try:
            os.remove(remote)
        except FileNotFoundError:
            pass
        except OSError as err:
            raise _unreachable(f"cannot remove {remote}", err) from err

    def mkdir(self, remote: str) -> None:
        try:
            os.makedirs(remote, exist_ok=True)
        except OSError as err:
            raise _unreachable(f"cannot make the folder {remote}", err) from err

    def signal(self, pid: int, signum: int) -> bool:
        try:
            # A process that has ended may stay as a zombie where no process reaps it, as in many containers.
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in ("Z", "X"):
                return False
            os.kill(pid, signal.Signals(signum) if signum else 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        except OSError as err:
            raise _unreachable(f"cannot signal process {pid}", err) from err
        return True


def _unreachable(what: str, err: OSError) -> BoardUnreachableError:
    hint = "`lightnas-edge boards clean localhost` frees what can be sent again" if err.errno in _FULL else ""
    return BoardUnreachableError(f"{what} on localhost: {err.strerror or err}", hint=hint)
