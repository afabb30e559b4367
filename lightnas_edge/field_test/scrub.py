"""Removes names and addresses from text: of the board, of this machine, and of their users.

Some are known (the board and this machine name them), the others have a form: addresses, fingerprints, identifiers.
A known name that is an everyday word of boards (`nvidia`, `ubuntu`) or of our files (`energy`) identifies no one and stands in
device trees and records, so only its uses as a name are removed: `/home/nvidia`, `nvidia@board`.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import ipaddress
import json
import os
import platform
import re
import socket
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import luts
from lightnas_edge.records.board import ProbeResult
from lightnas_edge.records.deployment import VerificationRecord
from lightnas_edge.records.lut import LutHeader, Visit
from lightnas_edge.records.model_profile import ModelProfileRecord
from lightnas_edge.records.predictor import PredictorRecord

# What stands in place of what was removed.
MARKS = {
    "host name": "REMOVED-HOST",
    "user name": "REMOVED-USER",
    "home folder": "REMOVED-HOME",
    "IP address": "REMOVED-ADDRESS",
    "MAC address": "REMOVED-MAC",
    "serial number": "REMOVED-SERIAL",
    "machine id": "REMOVED-ID",
    "boot id": "REMOVED-ID",
    "fingerprint": "REMOVED-FINGERPRINT",
    "key": "REMOVED-KEY",
}
_BOARDS = frozenset(
    [
        "admin",
        "agx",
        "arm64",
        "board",
        "bench",
        "debian",
        "desktop",
        "edge",
        "gpu",
        "host",
        "jetson",
        "linux",
        "local",
        "localhost",
        "nano",
        "nvidia",
        "nx",
        "orin",
        "pi",
        "root",
        "runner",
        "server",
        "simulated",
        "tegra",
        "test",
        "thor",
        "tx2",
        "ubuntu",
        "user",
        "virtual",
        "vm",
        "xavier",
    ]
)
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ESCAPE = re.compile(r"(\\(?:[nrtbfv0\"'\\/]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}))")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_FORMS = (
    ("key", re.compile(r"\b(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-\S+?|sk-\S+?) AAAA[A-Za-z0-9+/]+=*")),
    ("fingerprint", re.compile(r"\bSHA256:[A-Za-z0-9+/]{43}=?")),
    ("fingerprint", re.compile(r"\b(?:MD5:)?(?:[0-9a-fA-F]{2}:){15}[0-9a-fA-F]{2}\b")),
    ("MAC address", re.compile(r"(?<![0-9A-Fa-f:])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![0-9A-Fa-f:])")),
    ("machine id", re.compile(rf"\b(?:GPU-)?{_UUID}\b", re.IGNORECASE)),
    ("machine id", re.compile(r"(?<=machine-id[ =:])\s*[0-9a-f]{32}\b")),
)  # fmt: skip
_SERIAL = re.compile(r"(\bserial(?:[ _-]?(?:number|no))?[\"']?\s*[:=]\s*[\"']?)([A-Za-z0-9-]{6,})", re.IGNORECASE)
# Addresses; a version of four numbers (TensorRT 10.3.0.30-1+cuda12.5, "version": "8.5.2.2") is none.
_IPV4 = re.compile(
    r"(?<![\w.])(?<!version\": \")(?<!version=)(?<!version )(\d{1,3}(?:\.\d{1,3}){3})(?![\w]|\.\d|-\d+\+|\+|-\d+\b)"
)
_IPV6 = re.compile(r"(?<![\w:.])((?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:%\w+)?)(?![\w:])")
_USER_HOME = re.compile(r"(?<![\w/])/(?:home|Users)/[^/\s\"'\\:;,]+")


class Scrubber:
    """Removes what it was given and what has the form of an address. `removed` counts the places by kind."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}  # text -> kind
        self._versions: set[str] = set()
        self.removed: Counter[str] = Counter()

    def learn(self, private: Mapping[str, Iterable[str]]) -> None:
        """Kind -> what identifies a machine or a person."""
        for kind, texts in private.items():
            for text in texts:
                self._learn(kind, text.strip())

    def keep(self, versions: Iterable[str]) -> None:
        """Versions of software that the board names: one of four numbers has the form of an address."""
        self._versions.update(versions)

    def _learn(self, kind: str, text: str) -> None:
        if kind not in MARKS or not text.strip("/.") or _is_address(text):
            return
        if kind == "host name" and "." in text:
            self._learn(kind, text.partition(".")[0])
        if kind == "home folder" and len(Path(text).parts) > 2:
            self._learn("user name", Path(text).name)
        self._known.setdefault(text, kind)

    def text(self, content: str) -> str:
        """The same text without them. Escapes of JSON and of Python's `repr` separate words as what they stand for does."""
        content = self._replace(_PRIVATE_KEY, "key", content)
        for known, kind in self._longest_first():
            escaped = json.dumps(known)[1:-1]
            if escaped != known:
                content = self._replace(_pattern(escaped, kind), kind, content)
        pieces = _ESCAPE.split(content)
        return "".join(piece if index % 2 else self._piece(piece) for index, piece in enumerate(pieces))

    def _piece(self, content: str) -> str:
        for known, kind in self._longest_first():
            content = self._replace(_pattern(known, kind), kind, content)
        for kind, pattern in _FORMS:
            content = self._replace(pattern, kind, content)
        content = _SERIAL.sub(self._serial, content)
        content = _IPV4.sub(self._address, content)
        content = _IPV6.sub(self._address, content)
        return self._replace(_USER_HOME, "home folder", content)

    def _longest_first(self) -> list[tuple[str, str]]:
        """Known texts with their kinds: a home folder contains the user's name."""
        return sorted(self._known.items(), key=lambda item: -len(item[0]))

    def journal(self, content: bytes) -> bytes:
        """The same journal without them; a line that stated its right checksum states that of its new content."""
        lines = []
        for line in content.split(b"\n"):
            stated = luts.checksum(line)
            new = self.text(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            if stated is not None and stated[0] == stated[1] and new != line:
                body = new[: new.rfind(b',"crc32":"')]
                new = body + f',"crc32":"{zlib.crc32(body + b"}"):08x}"}}'.encode()
            lines.append(new)
        return b"\n".join(lines)

    def remaining(self, content: str) -> list[str]:
        """The kinds of what is known and still in a text."""
        pieces = _ESCAPE.split(content)[::2]
        return sorted(
            {kind for known, kind in self._known.items() for piece in pieces if _pattern(known, kind).search(piece)}
        )

    def _replace(self, pattern: re.Pattern[str], kind: str, content: str) -> str:
        content, count = pattern.subn(MARKS[kind], content)
        self.removed[kind] += count
        return content

    def _serial(self, found: re.Match[str]) -> str:
        if found[2].startswith("REMOVED"):
            return found[0]
        self.removed["serial number"] += 1
        return found[1] + MARKS["serial number"]

    def _address(self, found: re.Match[str]) -> str:
        if not _is_address(found[1]) or found[1] == "::" or found[1] in self._versions:
            return found[0]
        self.removed["IP address"] += 1
        return MARKS["IP address"]


def this_machine() -> dict[str, list[str]]:
    """What identifies this machine and its user."""
    user = home = ""
    with contextlib.suppress(KeyError, OSError, RuntimeError):  # a user without an entry in passwd, as in containers
        user = getpass.getuser()
    with contextlib.suppress(KeyError, OSError, RuntimeError):
        home = str(Path.home())
    return {
        "host name": [platform.node(), socket.gethostname()],
        "user name": [user, os.environ.get("USER", "")],
        "home folder": [home, os.environ.get("HOME", "")],
    }


def way_to(host: str) -> dict[str, list[str]]:
    """What identifies a board that is reached over SSH, and its user: names, addresses, jump hosts.

    Args:
        host: as for `devices.connect`.

    Raises:
        DeviceError: the user's own configuration is faulty.
    """
    if host == "localhost" or host.startswith("virtual:"):
        return {}
    from devices.endpoint import resolve  # paramiko takes a while to import

    endpoint = resolve(host)
    hops = [endpoint, *endpoint.jumps]
    user, _, address = host.rpartition("@")
    label = address if address.count(":") > 1 else address.partition(":")[0]
    named = [] if endpoint.board is None else [endpoint.board.name]
    return {
        "host name": [label, *named, *(name for hop in hops for name in (hop.host, hop.alias, hop.label))],
        "user name": [user, *(hop.user for hop in hops)],
    }


@functools.cache
def _pattern(text: str, kind: str) -> re.Pattern[str]:
    """Where a known text stands as a name. Host names have no case."""
    name = re.escape(text)
    if text.lower() in _everyday() or (len(text) < 3 and kind in ("host name", "user name")):
        name = rf"(?:(?<=@){name}|{name}(?=@))"
    flags = re.IGNORECASE if kind in ("host name", "serial number", "MAC address", "boot id") else 0
    return re.compile(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", flags)


@functools.cache
def _everyday() -> frozenset[str]:
    """Words that are no names: of boards, and all that stand in our own records."""
    records = (LutHeader, ModelProfileRecord, PredictorRecord, ProbeResult, VerificationRecord, Visit)
    schemas = json.dumps([record.model_json_schema() for record in records])
    return _BOARDS | {word.lower() for word in re.findall(r"\w+", schemas)}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
