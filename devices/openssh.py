"""The settings of ~/.ssh/config as OpenSSH's own client reads them: `ssh -G`."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from devices.errors import BoardUnreachableError

CLIENT_LIMIT_S = 10.0  # Match exec runs commands, CanonicalizeHostname asks DNS
RESOLVING = "LIGHTNAS_EDGE_RESOLVING"  # in the environment of `Match exec`, which may run this program
MOST_INCLUDES = 16  # files that include files, as in OpenSSH
_INCLUDE = re.compile(rb"\s*include(?:\s*=\s*|\s+)(.*)", re.IGNORECASE | re.DOTALL)

Answer = dict[str, list[str]]  # keyword in small letters -> its values in order


def ask_client(path: Path, host: str, user: str | None, port: int | None) -> Answer | None:
    """What `ssh -G` prints about a host; None where no client that can do this is installed.

    Raises:
        BoardUnreachableError: the client refuses the file or the host, or does not answer.
    """
    program = shutil.which("ssh")
    if program is None:
        return None
    if os.environ.get(RESOLVING):
        raise BoardUnreachableError(
            f"{path} runs this program in `Match exec` to look up {host}, which reads {path} again",
            hint="remove this command from `Match exec`",
        )
    with ExitStack() as stack:
        file = "none"
        if path.exists():
            file = str(_at_our_home(path, stack))
        argv = [program, "-F", file, "-G"]
        argv += ["-l", user] if user is not None else []
        argv += ["-p", str(port)] if port is not None else []
        try:
            code, output, errors = _run([*argv, "--", host], path, host)
        except OSError:  # a file named ssh that is no program
            return None
    words = errors.replace(file, str(path)) if file != "none" else errors
    if code != 0:
        if "unknown option" in words or "illegal option" in words:  # before OpenSSH 6.8
            return None
        faults = [line for line in words.splitlines() if line.strip() and "Pseudo-terminal" not in line]
        raise BoardUnreachableError(
            f"ssh cannot look up {host} in {path}: {'; '.join(faults) or f'exit code {code}'}",
            hint=f"`ssh -G {shlex.quote(host)}` shows how ssh resolves it",
        )
    return read_answer(output)


def read_answer(output: str) -> Answer:
    """What `ssh -G` prints, a keyword and a value a line."""
    answer: Answer = {}
    for line in output.splitlines():
        keyword, _, value = line.partition(" ")
        answer.setdefault(keyword.lower(), []).append(value)
    return answer


def home_of_account() -> Path:
    """The home folder in the password file, which OpenSSH uses in place of $HOME."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container may run as a user without an account
        return Path.home()


def at_home(name: str) -> Path:
    """A path that may begin with `~`. Of an unknown user it stays as it is: no such file.

    Raises:
        BoardUnreachableError: it is no path.
    """
    if "\0" in name:
        raise BoardUnreachableError(
            f"{name[:200]!r} is no name of a file", hint="correct it in ~/.ssh/config or boards.toml"
        )
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def included_files(pattern: str) -> list[str]:
    """The files that an `Include` in ~/.ssh/config names. Raises BoardUnreachableError."""
    whole = at_home(pattern)
    return [
        name
        for name in sorted(glob.glob(str(whole if whole.is_absolute() else Path.home() / ".ssh" / whole)))
        if os.path.isfile(name)
    ]


def _run(argv: list[str], path: Path, host: str) -> tuple[int, str, str]:
    """Raises BoardUnreachableError. Ends what `Match exec` started too, when it takes too long."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {RESOLVING: "1"},
    )
    try:
        output, errors = process.communicate(timeout=CLIENT_LIMIT_S)
    except subprocess.TimeoutExpired as err:
        raise BoardUnreachableError(
            f"`ssh -G {host}` did not end within {CLIENT_LIMIT_S:g} s",
            hint=f"look at `Match exec` and `CanonicalizeHostname` in {path}",
        ) from err
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return process.returncode, os.fsdecode(output), os.fsdecode(errors)


def _at_our_home(path: Path, stack: ExitStack) -> Path:
    """The file itself, or where $HOME is not the account's home, a copy that includes files from $HOME."""
    if Path.home() == home_of_account():
        return path
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lightnas-edge-ssh-")))
    return _copy(path, folder, 0)


def _copy(path: Path, folder: Path, depth: int) -> Path:
    """Raises BoardUnreachableError."""
    if depth > MOST_INCLUDES:
        raise BoardUnreachableError(f"{path} includes itself")
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as err:
        raise BoardUnreachableError(f"cannot read {path}: {err.strerror or err}") from err
    for number, line in enumerate(lines):
        match = _INCLUDE.fullmatch(line)
        if match is None:
            continue
        try:
            patterns = shlex.split(os.fsdecode(match[1]), comments=True)
        except ValueError:
            continue  # an open quote: OpenSSH reports it
        found = [_copy(Path(name), folder, depth + 1) for pattern in patterns for name in included_files(pattern)]
        lines[number] = b"".join(b'Include "%s"\n' % os.fsencode(name) for name in found)
    copy = folder / f"{len(os.listdir(folder))}"
    copy.write_bytes(b"".join(lines))
    return copy
