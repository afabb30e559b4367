"""Private keys in files: their type is read from the file, so any format of OpenSSH and OpenSSL will do."""

from __future__ import annotations

import base64
import binascii
import copy
import io
from pathlib import Path

import paramiko
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from devices.host_keys import HostKey

_LARGEST_FILE = 1 << 20
_MAGIC = b"openssh-key-v1\0"
_TYPES: dict[type, type[paramiko.RSAKey | paramiko.ECDSAKey | paramiko.Ed25519Key]] = {
    rsa.RSAPrivateKey: paramiko.RSAKey,
    ec.EllipticCurvePrivateKey: paramiko.ECDSAKey,
    ed25519.Ed25519PrivateKey: paramiko.Ed25519Key,
}


class KeyFileError(Exception):
    """A file that is no usable private key; the text says why, after the file's name."""


class PassphraseError(Exception):
    """The key is encrypted, and the passphrase is missing or wrong."""


def read_private_key(path: Path, passphrase: str | None) -> paramiko.PKey:
    """
    Raises:
        PassphraseError: it is encrypted, and this is not its passphrase.
        KeyFileError: it is missing, no private key, or of a type that SSH servers refuse.
    """
    content = _read(path)
    secret = None if passphrase is None else passphrase.encode()
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in content
    load = load_ssh_private_key if openssh else load_pem_private_key
    try:
        key = load(content, secret)
    except TypeError as err:  # a passphrase is missing, or given for a key without one
        if secret is not None:
            return read_private_key(path, None)
        raise PassphraseError from err
    except UnsupportedAlgorithm as err:  # a key of a security token, or a rare cipher
        raise KeyFileError(f"cannot be used from its file ({err}); load it into ssh-agent: ssh-add {path}") from err
    except (ValueError, InvalidTag) as err:
        if secret is not None:
            raise PassphraseError from err
        raise KeyFileError(_why_unreadable(content)) from err
    for kind, ours in _TYPES.items():
        if isinstance(key, kind):
            # paramiko takes keys as text; every type has OpenSSH's own format.
            text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
            try:
                return ours.from_private_key(io.StringIO(text))
            except (paramiko.SSHException, ValueError) as err:
                raise KeyFileError(f"cannot be used: {err}") from err
    raise KeyFileError("is of a type that SSH servers no longer accept; make another: ssh-keygen -t ed25519")


def with_certificate(key: paramiko.PKey, path: Path) -> paramiko.PKey:
    """A copy of the key that presents a certificate. Raises KeyFileError."""
    certified = copy.copy(key)
    try:
        certified.load_certificate(str(path))
    except (paramiko.SSHException, ValueError, OSError) as err:
        raise KeyFileError(f"is no certificate of this key: {err}") from err
    return certified


def public_half(path: Path) -> HostKey | None:
    """The public key of an identity: of PATH.pub, of PATH itself where it is a public key, or of a private file in OpenSSH's format."""
    for file in (path, path.with_name(path.name + ".pub")):
        try:
            text = _read(file)
        except KeyFileError:
            continue
        try:
            return HostKey.parse(text.decode(errors="replace"))
        except ValueError:
            pass
        if b"BEGIN OPENSSH PRIVATE KEY" in text:
            found = _public_half_inside(text)
            if found is not None:
                return found
    return None


def is_public(path: Path) -> bool:
    """Whether an identity file is a public key: its private half is in an agent."""
    try:
        HostKey.parse(_read(path).decode(errors="replace"))
    except (ValueError, KeyFileError):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_FILE)
    except OSError as err:
        raise KeyFileError(err.strerror or str(err)) from err


def _why_unreadable(content: bytes) -> str:
    if content.startswith(b"PuTTY-User-Key-File"):
        return "is in PuTTY's format; convert it: puttygen FILE -O private-openssh -o OTHER"
    if b"PRIVATE KEY" in content:
        return "is a damaged or unknown private key; `ssh-keygen -y -f FILE` checks it"
    return "is not a private key in a known format"


def _public_half_inside(text: bytes) -> HostKey | None:
    """OpenSSH's format keeps the public key outside the encrypted part."""
    encoded = b"".join(line for line in text.splitlines() if not line.startswith(b"-----"))
    try:
        content = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    if not content.startswith(_MAGIC):
        return None
    message = paramiko.Message(content[len(_MAGIC) :])
    for _ in range(3):  # cipher, key derivation, its options
        message.get_string()
    message.get_int()  # the number of keys, always 1
    blob = message.get_string()
    kind = paramiko.Message(blob).get_string()
    return HostKey(kind.decode(errors="replace"), blob)
