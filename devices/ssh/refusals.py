"""Why a board refuses to change a file: SFTP answers "Failure" to a full disk, a worn card and a wrong owner alike."""

from __future__ import annotations

import errno
import os
import shlex

from pydantic import ValidationError

from devices.connection import Completed
from devices.errors import BoardUnreachableError
from devices.programs import last_line
from devices.ssh.reasons import reason
from lightnas_edge.records.base import Count, Integer, Record, Text

# Looks at the nearest folder that exists and writes a file there; prints what it found. Python 3.6.
FACTS = """
import errno, json, os, pwd, sys, tempfile
nearest = os.path.abspath(sys.argv[1])
link = ""
while not os.path.exists(nearest):
    if os.path.islink(nearest):
        link = nearest
    nearest = os.path.dirname(nearest)
folder = nearest if os.path.isdir(nearest) else os.path.dirname(nearest)
found, disk = os.stat(folder), os.statvfs(folder)
def name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
code = 0
try:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(65536))
        file.flush()
except OSError as err:
    code = err.errno or 0
print(json.dumps({
    "folder": folder, "owner": name(found.st_uid), "mode": "%03o" % (found.st_mode & 0o7777), "user": name(os.geteuid()),
    "error": errno.errorcode.get(code, ""), "free_bytes": disk.f_bavail * disk.f_frsize,
    "free_files": disk.f_favail if disk.f_files else -1, "home": os.path.expanduser("~"),
    "home_exists": os.path.isdir(os.path.expanduser("~")), "link": link, "link_to": os.readlink(link) if link else "",
}))
"""


class Facts(Record):
    """What the board found at a path that it refused to change. `error`: the name of an errno, or ""."""

    folder: Text
    owner: Text
    mode: Text
    user: Text
    error: Text
    free_bytes: Count
    free_files: Integer  # inodes; -1 where the file system has no fixed number
    home: Text
    home_exists: bool
    link: Text  # on the way to the path, to something that does not exist; "" without one
    link_to: Text

    @classmethod
    def read(cls, ended: Completed) -> Facts | None:
        """From the output of FACTS; None where it is something else."""
        try:
            return cls.model_validate_json(last_line(ended.stdout))
        except ValidationError:
            return None


def refusal(what: str, name: str, err: OSError, facts: Facts | None, size_bytes: int = 0) -> BoardUnreachableError:
    """The error for a change that the board refused, with the remedy for its cause and for no other.

    Args:
        what: was attempted, as a sentence without an end: "cannot copy A to B".
        size_bytes: of what was to be written.
    """
    code = err.errno
    if facts is not None and facts.error:
        code = getattr(errno, facts.error, code)
    elif facts is not None and 0 < facts.free_bytes < size_bytes:
        code = errno.ENOSPC
    cause = reason(err) if code in (None, err.errno) else os.strerror(code or 0)
    if facts is None:
        return BoardUnreachableError(f"{what} on {name}: {cause}")
    if facts.link:
        return BoardUnreachableError(
            f"{what} on {name}: {facts.link} is a link to {facts.link_to}, which does not exist",
            hint="mount that disk on the board, make the folder, or remove the link",
        )
    free = f"{facts.free_bytes / 2**20:.0f} MB are free there"
    hint = ""
    if code in (errno.EACCES, errno.EPERM) and not facts.home_exists:
        cause += f": the home folder {facts.home} of {facts.user} does not exist"
        hint = f"on the board: sudo install -d -o {shlex.quote(facts.user)} {shlex.quote(facts.home)}"
    elif code in (errno.EACCES, errno.EPERM):
        cause += f": {facts.folder} belongs to {facts.owner} and has mode {facts.mode}; the agent runs as {facts.user}"
        if facts.owner != facts.user and _is_below(facts.folder, facts.home):
            hint = f"on the board: sudo chown -R {shlex.quote(facts.user)}: {shlex.quote(facts.folder)}"
        elif facts.owner == facts.user:
            hint = f"on the board: chmod u+rwx {shlex.quote(facts.folder)}"
    elif code == errno.EROFS:
        cause += f": {facts.folder} cannot be written"
        hint = (
            "a worn or damaged card is mounted read-only: look at `dmesg` on the board;\n"
            f"`findmnt -T {shlex.quote(facts.folder)}` names the file system"
        )
    elif code == errno.ENOSPC and facts.free_files == 0:
        cause = f"no inodes are left (df -i {shlex.quote(facts.folder)}); {free}"
        hint = "remove small files on the board that nobody needs"
    elif code in (errno.ENOSPC, errno.EDQUOT):
        cause += f" ({free})"
        hint = "`lightnas-edge boards clean` frees what can be sent again"
    elif size_bytes:
        cause += f" ({free})"
    return BoardUnreachableError(f"{what} on {name}: {cause}", hint=hint)


def _is_below(folder: str, home: str) -> bool:
    return folder == home or folder.startswith(home.rstrip("/") + "/")
