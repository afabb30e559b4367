"""Logging in: named keys, the agent's keys, the usual files, then a password."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import paramiko

from devices.endpoint import Endpoint
from devices.errors import AuthenticationError
from devices.host_keys import check
from devices.ssh.keys import KeyFileError, PassphraseError, is_public, public_half, read_private_key, with_certificate
from devices.ssh.reasons import ANSWER_LIMIT_S, reason
from devices.ssh.transport import key_of, negotiate

KEEP_ALIVE_S = 15
PASSWORD_TRIES = 3  # also of a passphrase


class Secrets:
    """Passwords and passphrases: asked for once, kept in memory only."""

    def __init__(self, ask: Callable[[str], str] | None) -> None:
        self._ask = ask
        self._known: dict[str, str] = {}

    @property
    def can_ask(self) -> bool:
        return self._ask is not None

    def known(self, what: str) -> str | None:
        return self._known.get(what)

    def ask(self, what: str) -> str:
        assert self._ask is not None
        try:
            return self._ask(f"{what}: ")
        except EOFError as err:  # Ctrl-D, or the terminal is gone
            raise AuthenticationError(f"no {what} was typed") from err

    def keep(self, what: str, secret: str) -> None:
        self._known[what] = secret


def login(
    endpoint: Endpoint, sock: socket.socket | paramiko.Channel, secrets: Secrets, stack: contextlib.ExitStack
) -> paramiko.Transport:
    """An authenticated connection to a host with a known key.

    Raises:
        HostKeyError: the host key is unknown, has changed or is revoked.
        AuthenticationError: neither keys nor passwords were accepted.
        BoardUnreachableError: nothing answers.
    """
    transport = negotiate(endpoint, sock, stack)
    check(
        key_of(transport),
        endpoint.known_keys(),
        label=endpoint.label,
        address=endpoint.alias,
        board=endpoint.board.name if endpoint.board is not None else None,
    )
    try:
        _authenticate(transport, endpoint, secrets)
    except (paramiko.SSHException, EOFError, OSError) as err:
        raise AuthenticationError(
            f"{endpoint.label} closed the connection while keys were tried: {reason(err)}",
            hint="too many keys in the agent? name one: IdentityFile and IdentitiesOnly yes in ~/.ssh/config, "
            "or `key` in boards.toml",
        ) from err
    transport.set_keepalive(KEEP_ALIVE_S)
    return transport


def _authenticate(transport: paramiko.Transport, endpoint: Endpoint, secrets: Secrets) -> None:
    tried: list[str] = []
    try:
        transport.auth_none(endpoint.user)
        return
    except paramiko.BadAuthenticationType as err:
        allowed = err.allowed_types
    if "publickey" in allowed:
        for what, key in _keys(endpoint, secrets, tried):
            try:
                if not transport.auth_publickey(endpoint.user, key):
                    return
                tried.append(f"{what}: accepted, but the board wants more than a key")
            except paramiko.AuthenticationException as err:
                tried.append(f"{what}: refused" + (f" ({err})" if "agreed" in str(err) else ""))
            except (paramiko.SSHException, OSError) as err:  # of the agent, which may refuse to sign
                if not transport.is_active():
                    raise
                tried.append(f"{what}: {reason(err)}")
            if not transport.is_active():
                raise EOFError("too many keys were tried")
    if {"password", "keyboard-interactive"} & set(allowed):
        if _log_in_by_password(transport, endpoint, secrets):
            return
        tried.append("password: refused" if secrets.can_ask else "password: no terminal to type it in")
    raise AuthenticationError(
        f"{endpoint.label} refuses the login of {endpoint.user}; it accepts {', '.join(allowed)}\n"
        + "\n".join(f"  {line}" for line in tried or ["no key was found"]),
        hint=f"is {endpoint.user} the user on the board? USER@HOST names another\n"
        f"to install a key: ssh-copy-id -p {endpoint.port} {endpoint.user}@{endpoint.host}",
    )


def _keys(endpoint: Endpoint, secrets: Secrets, tried: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys to try in order, each with its name; what cannot be loaded is added to `tried`.

    Of a key that the agent has too, the agent's copy is used: it needs no passphrase.
    """
    with contextlib.ExitStack() as stack:
        agent_keys = _agent_keys(endpoint, tried, stack)
        used: set[bytes] = set()
        if endpoint.keys_named:
            yield from _identities(endpoint.key_files, agent_keys, used, secrets, tried)
        if not endpoint.only_keys:
            for key in agent_keys:
                if key.asbytes() not in used:
                    used.add(key.asbytes())
                    yield f"agent, {key.get_name()}", key
        if not endpoint.keys_named:
            present = [
                path for path in endpoint.key_files if path.exists() or path.with_name(f"{path.name}.pub").exists()
            ]
            yield from _identities(present, agent_keys, used, secrets, tried)


def _identities(
    files: Sequence[Path], agent_keys: Sequence[paramiko.AgentKey], used: set[bytes], secrets: Secrets, tried: list[str]
) -> Iterator[tuple[str, paramiko.PKey]]:
    for path in files:
        public = public_half(path)
        if public is not None and public.blob in used:
            continue
        copy = next((key for key in agent_keys if public is not None and key.asbytes() == public.blob), None)
        if public is not None:
            used.add(public.blob)
        if copy is not None:
            yield f"{path} (agent)", copy
        elif is_public(path):
            tried.append(f"{path}: is a public key, and the agent does not have its private half")
        else:
            key = _load_key(path, secrets, tried)
            certificate = path.with_name(f"{path.name}-cert.pub")
            if key is not None and certificate.is_file():
                try:
                    yield str(certificate), with_certificate(key, certificate)
                except KeyFileError as err:
                    tried.append(f"{certificate}: {err}")
            if key is not None:
                yield str(path), key


class _Agent(paramiko.agent.AgentSSH):
    """An SSH agent at a socket; paramiko's own looks at SSH_AUTH_SOCK alone."""

    def __init__(self, path: str) -> None:
        super().__init__()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(4 * ANSWER_LIMIT_S)  # it may ask its user to touch a token
        try:
            sock.connect(path)
            self._connect(sock)  # type: ignore[attr-defined]
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


def _agent_keys(endpoint: Endpoint, tried: list[str], stack: contextlib.ExitStack) -> tuple[paramiko.AgentKey, ...]:
    """The keys of the agent; empty where there is none."""
    if not endpoint.agent:
        return ()
    try:
        agent = _Agent(endpoint.agent)
    except (OSError, paramiko.SSHException) as err:
        tried.append(f"agent at {endpoint.agent}: {reason(err)}")
        return ()
    stack.callback(agent.close)
    return agent.get_keys()


def _load_key(path: Path, secrets: Secrets, tried: list[str]) -> paramiko.PKey | None:
    what = f"passphrase of {path}"
    passphrase = secrets.known(what)
    asked = 0
    while True:
        try:
            key = read_private_key(path, passphrase)
        except KeyFileError as err:
            tried.append(f"{path}: {err}")
            return None
        except PassphraseError:
            if not secrets.can_ask:
                tried.append(f"{path}: needs a passphrase; load it into ssh-agent (ssh-add {path})")
                return None
            if asked == PASSWORD_TRIES:
                tried.append(f"{path}: wrong passphrase")
                return None
            asked += 1
            passphrase = secrets.ask(what)
            continue
        if asked and passphrase is not None:
            secrets.keep(what, passphrase)
        return key


def _log_in_by_password(transport: paramiko.Transport, endpoint: Endpoint, secrets: Secrets) -> bool:
    what = f"password of {endpoint.user}@{endpoint.host}"
    known = secrets.known(what)
    for _ in range(PASSWORD_TRIES if secrets.can_ask else 0):
        password = known if known is not None else secrets.ask(what)
        known = None
        try:
            transport.auth_password(endpoint.user, password)
        except paramiko.AuthenticationException:
            if not transport.is_active():
                return False
            continue
        secrets.keep(what, password)
        return True
    return False
