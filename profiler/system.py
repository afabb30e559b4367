"""Where the machine's files and tools are. The root is a parameter, so a folder of text files can be a board."""

import os
import platform
import shutil
import subprocess
from typing import NamedTuple, Optional, Sequence

TOOL_LIMIT_S = 10.0
VIRTUAL_FILE = "virtual.json"  # in the root of a virtual board: what it is made of
_TOOL_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")  # not all of them are on the path of every user


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
        path = self.tool(argv[0])
        if path is None:
            return None
        try:
            ended = subprocess.run(
                [path] + list(argv[1:]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TOOL_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ended.stdout.decode("utf-8", "replace")


THIS_MACHINE = System()
