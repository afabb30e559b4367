"""The lines of a journal as bytes: the checksum that each of them ends in, whatever else it holds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONGEST_LINE = 4 << 20  # of a visit they are a few thousand bytes long
_BOM = b"\xef\xbb\xbf"
_CRC_FIELD = b',"crc32":"'
CHECKSUM_BYTES = len(_CRC_FIELD) + len('xxxxxxxx"}')  # at the end of a line


class JournalLine(NamedTuple):
    """One line, without its line end. Where it is longer than LONGEST_LINE it is cut off: its checksum cannot hold then."""

    content: bytes
    ended: bool  # it has a newline
    end: int  # place in the file behind it

    @property
    def is_intact(self) -> bool:
        sums = checksum(self.content)
        return sums is not None and sums[0] == sums[1]


def may_be_header(line: bytes) -> bool:
    """Of a damaged line: whether it was a header, so that the board of the visits after it is unknown."""
    return b'"kind":"lut"' in line[:64] or (b'"agent_version":' in line and b'"fingerprint":' in line)


def checksum(line: bytes) -> tuple[str, str] | None:
    """(stated, computed) checksum of a line without its newline; None when it states none."""
    if len(line) < CHECKSUM_BYTES or not line.endswith(b'"}'):
        return None
    body, tail = line[:-CHECKSUM_BYTES], line[-CHECKSUM_BYTES:]
    if not tail.startswith(_CRC_FIELD):
        return None
    return tail[len(_CRC_FIELD) : -2].decode("ascii", "replace").lower(), f"{zlib.crc32(body + b'}'):08x}"


def read_lines(path: Path, start: int = 0) -> Iterator[JournalLine]:
    """The lines of a file from a place on, one at a time: it may be larger than the memory.

    Line ends may have become CR LF, a byte order mark may stand before the first line, and a file system that lost power
    may have left zeros before a line: none of them is part of a line.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        place = start
        if start or file.read(len(_BOM)) != _BOM:
            file.seek(start)
        else:
            place = len(_BOM)
        while content := file.readline(LONGEST_LINE):
            last = content
            place += len(content)
            while last and not last.endswith(b"\n"):
                last = file.readline(LONGEST_LINE)
                place += len(last)
            yield JournalLine(content.strip().lstrip(b"\0"), last.endswith(b"\n"), place)
