"""Files over SFTP: each operation may run again over a new link, and none shows half a file to a reader."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import paramiko

from devices.errors import BoardUnreachableError
from devices.programs import last_line
from devices.ssh.link import BLOCK, Link

WRITE_BLOCK = BLOCK - 128  # with its header it still fits in one packet of SSH
BATCH_FILES, BATCH_BYTES = 100, 64 << 20  # files that are checked together, and sent again together if the link breaks

# The names and sizes in a folder, in ASCII: bytes that are not UTF-8 come as surrogates. Python 3.6.
_LIST = (
    "import json, os, sys; "
    "print(json.dumps({entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(sys.argv[1])}))"
)

Files = Sequence[tuple[Path, str]]  # each with its path on the board


def put(python: str, files: Files, parts: list[str], name: str, link: Link) -> None:
    """Write to a part, check it on the board, rename: no reader sees half a file.

    Not `write_atomic`: the file is on the board, and its checksum is computed there.

    Args:
        parts: collects those that remain to be removed.
        name: of the board.
    """
    sftp = link.sftp()
    remove_all(parts, link)  # of an earlier attempt that lost its link
    try:
        names = [f"{remote}.part-{os.urandom(4).hex()}" for _, remote in files]
        parts.extend(names)
        sums = [send(sftp, local, part) for (local, _), part in zip(files, names, strict=True)]
        there = link.sha256(python, [(part, None) for part in names])
        for (local, remote), part, sent, arrived in zip(files, names, sums, there, strict=True):
            if sent != arrived:
                # paramiko ignores refused writes of a pipelined file: a full disk shows here.
                size, whole = sftp.stat(part).st_size or 0, local.stat().st_size
                if size < whole:
                    raise OSError(None, f"only {size} of {whole} bytes could be written")
                raise BoardUnreachableError(f"{local} arrived damaged as {remote} on {name}")
            sftp.posix_rename(part, remote)
            parts.remove(part)
    except Exception:
        if link.alive:
            remove_all(parts, link)
        raise


def send(sftp: paramiko.SFTPClient, local: Path, part: str) -> str:
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


def read(remote: str, offset: int, limit: int, link: Link) -> bytes:
    """From an offset on; one byte or more above `limit` where there is more."""
    content = bytearray()
    with link.sftp().open(remote, "rb") as file:
        file.seek(offset)
        while len(content) <= limit and (block := file.read(BLOCK)):
            content += block
    return bytes(content)


def remove(remote: str, link: Link) -> None:
    with contextlib.suppress(FileNotFoundError):
        link.sftp().remove(os.fsencode(remote))  # paramiko encodes no name that is not UTF-8


def listdir(python: Callable[[], str], remote: str, link: Link) -> dict[str, int]:
    """Names and sizes. paramiko reads no name that is not UTF-8; the board's Python does."""
    try:
        return {entry.filename: entry.st_size or 0 for entry in link.sftp().listdir_attr(remote)}
    except UnicodeDecodeError:
        ended = link.ask([python(), "-c", _LIST, remote])
    try:
        found = json.loads(last_line(ended.stdout))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(type(size) is int for size in found.values()):
        raise OSError(None, last_line(ended.stderr).decode(errors="replace") or "a name is not UTF-8")
    return found


def remove_all(parts: list[str], link: Link) -> None:
    """Remove files that may exist; `boards clean` removes the rest."""
    while parts:
        try:
            link.sftp().remove(parts.pop())
        except (TimeoutError, EOFError, paramiko.SSHException):
            return
        except OSError:
            continue


def mkdir(remote: str, link: Link) -> None:
    """With those above it."""
    for folder in [*reversed(PurePosixPath(remote).parents), PurePosixPath(remote)][1:]:
        found = find(link.sftp(), str(folder))
        if found is None:
            refused = None
            try:
                link.sftp().mkdir(str(folder), 0o755)
            except OSError as err:  # another process may have made it in between
                refused = err
            found = find(link.sftp(), str(folder))
            if found is None:
                raise refused or FileNotFoundError(errno.ENOENT, f"{folder} was removed at once")
        if not stat.S_ISDIR(found.st_mode or 0):
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")


def find(sftp: paramiko.SFTPClient, remote: str) -> paramiko.SFTPAttributes | None:
    """A file's attributes; None where it is missing."""
    try:
        return sftp.stat(remote)
    except FileNotFoundError:
        return None


def process_state(sftp: paramiko.SFTPClient, pid: int) -> str | None:
    """The state letter of a process on the board; None if no such process runs."""
    try:
        with sftp.open(f"/proc/{int(pid)}/stat", "rb") as file:
            text = file.read(4096).decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0] if fields else None


def batches(files: Files) -> Iterator[list[tuple[Path, str]]]:
    """Files that are sent and checked together."""
    batch: list[tuple[Path, str]] = []
    size = 0
    for local, remote in files:
        try:
            size += local.stat().st_size
        except OSError as err:
            raise BoardUnreachableError(f"cannot copy {local} to {remote}: {err.strerror or err}") from err
        batch.append((local, remote))
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
