"""The archive of a field test: packed without names and addresses, and checked before anything of it is read."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO

from lightnas_edge.field_test.records import FieldTestError
from lightnas_edge.field_test.scrub import Scrubber
from lightnas_edge.files import write_atomic

TOP = "field-test"
SUMMARY, SNAPSHOT, PROBE, README, LOG = (
    "summary.json",
    "snapshot.json",
    "probe.json",
    "README.md",
    "logs/field-test.log",
)
LARGEST_ARCHIVE = 64 << 20  # bytes
LARGEST_CONTENT = 256 << 20  # uncompressed
MOST_FILES = 2000
_NAME = re.compile(rf"{TOP}(/[A-Za-z0-9_.@+-]+){{0,8}}$")
_ASK = "ask for the archive again: it is the one file that `lightnas-edge field-test --host HOST` leaves"


def scrub(folder: Path, scrubber: Scrubber) -> None:
    """Rewrite every file of a folder without names and addresses.

    Raises:
        FieldTestError: something that is known remains.
    """
    for path in _files(folder):
        content = path.read_bytes()
        new = (
            scrubber.journal(content)
            if path.suffix == ".jsonl"
            else scrubber.text(content.decode("utf-8", "replace")).encode()
        )
        if new != content:
            write_atomic(path, new)
        left = scrubber.remaining(new.decode("utf-8", "replace"))
        if left or scrubber.remaining(path.name):
            raise FieldTestError(f"{path.relative_to(folder)} still contains a {' and a '.join(left) or 'name'}")


def pack(folder: Path, archive: Path) -> None:
    """All files of a folder as .tar.gz; no owner, no time and no path of this machine is in it.

    Raises:
        OSError: the archive cannot be written.
    """
    raw = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in _files(folder):
            member = tarfile.TarInfo(f"{TOP}/{path.relative_to(folder).as_posix()}")
            content = path.read_bytes()
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    write_atomic(archive, raw.getvalue())


def unpack(archive: Path, folder: Path) -> Path:
    """Extract an archive below a folder, checked first; the folder of the field test.

    Raises:
        FieldTestError: no such archive; too large; a member that is no plain file, has an odd name, or leads outside.
    """
    try:
        size = archive.stat().st_size
        if size > LARGEST_ARCHIVE:
            raise FieldTestError(f"{archive} is larger than {LARGEST_ARCHIVE >> 20} MiB", hint=_ASK)
        # Decompressed first, within limits: tarfile reads a header of any length into memory.
        with tempfile.TemporaryFile() as plain:
            _decompress(archive, plain)
            with tarfile.open(fileobj=plain, mode="r:") as tar:
                _extract(archive, tar, folder)
    except OSError as err:
        if isinstance(err, gzip.BadGzipFile):
            raise FieldTestError(f"{archive} is no .tar.gz archive: {err}", hint=_ASK) from err
        raise FieldTestError(f"cannot read {archive}: {err.strerror or err}", hint=_ASK) from err
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as err:
        if isinstance(err, FieldTestError):
            raise
        raise FieldTestError(f"{archive} is damaged, or no .tar.gz archive: {err}", hint=_ASK) from err
    if not (folder / TOP / SUMMARY).is_file():
        raise FieldTestError(f"{archive} holds no {TOP}/{SUMMARY}: it is no archive of a field test", hint=_ASK)
    return folder / TOP


def _decompress(archive: Path, plain: IO[bytes]) -> None:
    with gzip.open(archive) as compressed:
        while chunk := compressed.read(1 << 20):
            plain.write(chunk)
            if plain.tell() > LARGEST_CONTENT:
                raise FieldTestError(f"the content of {archive} is larger than {LARGEST_CONTENT >> 20} MiB", hint=_ASK)
    plain.seek(0)


def _extract(archive: Path, tar: tarfile.TarFile, folder: Path) -> None:
    """One member after the other, so that nothing after a fault is read. Raises FieldTestError."""
    seen: set[str] = set()
    for member in tar:
        name = member.name
        shown = ascii(name[:100])
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise FieldTestError(f"{archive}: {shown} is no plain file", hint=_ASK)
        if not _NAME.match(name) or ".." in name.split("/") or "." in name.split("/"):
            raise FieldTestError(f"{archive}: {shown} is no name of a field test's file", hint=_ASK)
        if name in seen:
            raise FieldTestError(f"{archive}: {shown} is there twice", hint=_ASK)
        seen.add(name)
        if len(seen) > MOST_FILES:
            raise FieldTestError(f"{archive} holds more than {MOST_FILES} files", hint=_ASK)
        tar.extract(member, folder, set_attrs=False, filter="data")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
