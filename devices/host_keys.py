"""Checks host keys against the known ones; a key is never added without the user.

Known keys come from the user's known_hosts files and from `host_key` in boards.toml. A board of boards.toml is pinned
by its name, not by its address: boards are flashed again, and several of them answer at 192.168.55.1.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devices.errors import HostKeyError

# The algorithms that sign with a key of this type; SHA-1 signatures are gone.
_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True)
class HostKey:
    """A public key: `type` such as ssh-ed25519, and its blob as in known_hosts, decoded."""

    type: str
    blob: bytes

    @classmethod
    def parse(cls, text: str) -> HostKey:
        """From `ssh-ed25519 AAAA...`, as in known_hosts or in a .pub file.

        Raises:
            ValueError: it is not a public key.
        """
        try:
            type_, encoded = text.split()[:2]
            blob = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error) as err:
            raise ValueError(f"not a public key: {text[:40]!r}") from err
        length = int.from_bytes(blob[:4], "big")
        if blob[4 : 4 + length] != type_.encode():
            raise ValueError(f"not a key of type {type_}: {text[:40]!r}")
        return cls(type_, blob)

    def __str__(self) -> str:
        return f"{self.type} {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """As OpenSSH shows it: SHA256:..."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class KnownKeys:
    """The known keys of one host, each with its source, and the keys that must never be accepted."""

    accepted: tuple[tuple[HostKey, str], ...] = ()
    revoked: tuple[tuple[HostKey, str], ...] = ()

    def __add__(self, other: KnownKeys) -> KnownKeys:
        return KnownKeys(self.accepted + other.accepted, self.revoked + other.revoked)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Signature algorithms of the known keys: proposed first, so that the board presents a comparable key."""
        types = dict.fromkeys(key.type for key, _ in self.accepted)
        return tuple(name for type_ in types for name in _SIGNATURES.get(type_, (type_,)))

    def verdict(self, offered: HostKey) -> str:
        """`known`, `unknown`, `changed` or `revoked`; `changed` too when only keys of another type are known."""
        if any(key.blob == offered.blob for key, _ in self.revoked):
            return "revoked"
        if any(key.blob == offered.blob for key, _ in self.accepted):
            return "known"
        return "changed" if self.accepted else "unknown"


def host_name_in_known_hosts(host: str, port: int) -> str:
    """`host`, or `[host]:port` where the port is not 22."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def read_known_hosts(files: Iterable[Path], name: str) -> KnownKeys:
    """All entries of the known_hosts files for a host; lines that cannot be read are ignored.

    Raises:
        HostKeyError: a file exists and cannot be read.
    """
    name = name.lower()  # as OpenSSH compares and hashes names
    accepted, revoked = [], []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as err:
            raise HostKeyError(f"cannot read {path}: {err.strerror or err}") from err
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or not _matches(fields[0], name):
                continue
            try:
                key = HostKey.parse(" ".join(fields[1:3]))
            except ValueError:
                continue
            if marker == "@revoked":
                revoked.append((key, f"{path}:{number}"))
            elif not marker:  # @cert-authority marks a key that signs host keys, not a host key
                accepted.append((key, f"{path}:{number}"))
    return KnownKeys(tuple(accepted), tuple(revoked))


PIN = "boards.toml, "  # source of a key that is pinned to a board, before the board's name


def check(offered: HostKey, known: KnownKeys, *, label: str, address: str, board: str | None) -> None:
    """Accept a host key only if it is known.

    Args:
        label: the host as the user named it; address: `host` or `[host]:port`; board: its name in boards.toml, if it has one.

    Raises:
        HostKeyError: the key is unknown, has changed or is revoked; the text has its fingerprint, the hint the next step.
    """
    verdict = known.verdict(offered)
    if verdict == "known":
        return
    shown = f"{offered.type} {offered.fingerprint}"
    file = f"ssh_host_{offered.type.removeprefix('ssh-').partition('-')[0]}_key.pub"  # ed25519, ecdsa or rsa
    compare = f"compare it with the board's own, on the board: ssh-keygen -lf /etc/ssh/{file}"
    if verdict == "revoked":
        raise HostKeyError(f"{label} offers a host key that is marked as revoked: {shown}")
    if verdict == "unknown":
        added = board or f"NAME {label}"
        raise HostKeyError(
            f"{label} is not a known host; its key is {shown}",
            hint=f"{compare}\nif it is the same: `lightnas-edge boards add {added}`",
        )
    where = "\n".join(f"  known: {key.type} {key.fingerprint} ({source})" for key, source in known.accepted)
    pins = [source.removeprefix(PIN) for _, source in known.accepted if source.startswith(PIN)]
    forget = [f"lightnas-edge boards remove {name}" for name in pins]
    if len(pins) < len(known.accepted):
        forget.append(f"ssh-keygen -R '{address}'")
    again = f"`lightnas-edge boards add {board}`" if board and board not in pins else "`lightnas-edge boards add`"
    raise HostKeyError(
        f"the host key of {label} has changed\n{where}\n  offered: {shown}",
        hint="someone may intercept the connection, the board may have been flashed again, or another board may have its address\n"
        f"{compare}\nif it is right, forget the old key: {'; '.join(forget)}; then {again}",
    )


def _matches(patterns: str, name: str) -> bool:
    """The host field of a known_hosts line: names, wildcards, negations, or one hashed name."""
    matched = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            matched |= _is_hash_of(pattern, name)
        elif pattern.startswith("!"):
            if fnmatch.fnmatchcase(name, _glob(pattern[1:])):
                return False
        else:
            matched |= fnmatch.fnmatchcase(name, _glob(pattern))
    return matched


def _glob(pattern: str) -> str:
    return pattern.lower().replace("[", "[[]")  # only * and ? are wildcards; [host]:port is meant literally


def _is_hash_of(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
