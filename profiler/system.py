"""Where the machine's files and tools are. The root is a parameter, so a folder of text files can be a board."""

import math
import os
import platform
import select
import shutil
import signal
import subprocess
import time
from typing import NamedTuple, Optional, Sequence

TOOL_LIMIT_S = 10.0
POLL_S = 0.05
LONGEST_OUTPUT = 1 << 20  # of a tool; the rest is dropped
_KILL_LIMIT_S = 2.0  # a process that waits for hardware does not end before the hardware answers
_LONGEST_POLL_MS = 2**31 - 1  # what poll() takes: 24 days
VIRTUAL_FILE = "virtual.json"  # in the root of a virtual board: what it is made of
_TOOL_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")  # not all of them are on the path of every user


class Ended(NamedTuple):
    """A tool that has ended: its exit code, and all that it printed. None: it had to be killed."""

    code: Optional[int]
    output: str

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or [""])[-1].strip()


class System(NamedTuple):
    """A machine, seen through its files: this one, or a folder in the same form."""

    root: str = "/"

    @property
    def proc(self) -> str:
        return os.path.join(self.root, "proc")

    @property
    def sysfs(self) -> str:
        return os.path.join(self.root, "sys")

    @property
    def etc(self) -> str:
        return os.path.join(self.root, "etc")

    @property
    def is_virtual(self) -> bool:
        """Whether this is a virtual board (devices/virtual.py): nothing measured on it is real."""
        return os.path.exists(os.path.join(self.root, VIRTUAL_FILE))

    @property
    def architecture(self) -> Optional[str]:
        return platform.machine() if self.root == "/" else None

    def disk_free_mb(self, folder: str) -> Optional[float]:
        """Free space for a folder that may not exist yet; None when it is not known."""
        while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
            folder = os.path.dirname(folder)
        try:
            return round(shutil.disk_usage(folder).free / 2**20, 1)
        except OSError:
            return None

    def tool(self, name: str) -> Optional[str]:
        """The path of a program; None when the machine has no such program."""
        if self.root != "/":
            path = os.path.join(self.root, "usr/sbin", name)
            return path if os.access(path, os.X_OK) else None
        return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""),) + _TOOL_FOLDERS))

    def output_of(self, argv: Sequence[str]) -> Optional[str]:
        """What a tool prints, errors and warnings included; None without the tool, or when it does not end."""
        if self.tool(argv[0]) is None:
            return None
        try:
            ended = self.run(argv, TOOL_LIMIT_S)
        except OSError:
            return None
        return None if ended.code is None else ended.output

    def run(self, argv: Sequence[str], limit_s: float) -> Ended:
        """Run a tool to its end, or to the end of its time.

        It gets no input: one that asks a question gets no answer. A process that the tool leaves behind may keep its
        output open; it is not waited for.

        Raises:
            OSError: it cannot be started.
        """
        deadline_s = time.monotonic() + limit_s
        ours, theirs = os.pipe()
        try:
            try:
                process = subprocess.Popen(
                    [self.tool(argv[0]) or argv[0]] + list(argv[1:]),
                    stdin=subprocess.DEVNULL,
                    stdout=theirs,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            finally:
                os.close(theirs)
            try:
                output = _output(process, ours, deadline_s)
            finally:
                code = process.poll()
                if code is None:
                    _kill_session(process)
            return Ended(code, output.decode("utf-8", "replace"))
        finally:
            os.close(ours)


def readable(files: Sequence[int], limit_s: float) -> bool:
    """Whether one of these file descriptors has something to read, or has been closed, within this time.

    Unlike `select.select` it takes descriptors above 1023, as a process with many open files has them.
    """
    poll = select.poll()
    for each in files:
        poll.register(each, select.POLLIN)
    return bool(poll.poll(min(math.ceil(limit_s * 1000), _LONGEST_POLL_MS)))


def _output(process: "subprocess.Popen[bytes]", pipe: int, deadline_s: float) -> bytes:
    """What a process prints until it ends, or until the deadline."""
    output = b""
    while time.monotonic() < deadline_s:
        ended = process.poll() is not None  # looked at first: what it printed last is read below
        if readable([pipe], 0.0 if ended else POLL_S):
            block = os.read(pipe, 65536)
            output += block[: max(0, LONGEST_OUTPUT - len(output))]
            if not block:
                _wait(process, deadline_s - time.monotonic())
                break
        elif ended:
            break
    return output


def _wait(process: "subprocess.Popen[bytes]", limit_s: float) -> None:
    try:
        process.wait(max(0.0, limit_s))
    except subprocess.TimeoutExpired:
        pass


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    """End a tool with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass
    _wait(process, _KILL_LIMIT_S)


THIS_MACHINE = System()
