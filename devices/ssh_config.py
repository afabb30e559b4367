"""What ~/.ssh/config says about a host: from OpenSSH's client, or read here where it is not installed."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import paramiko

from devices.errors import BoardUnreachableError
from devices.openssh import MOST_INCLUDES, Answer, ask_client, at_home, home_of_account, included_files

_DEFAULT_KEYS = ["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"]
_KNOWN_HOSTS = ("~/.ssh/known_hosts ~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
_SAFE_IN_SHELL = re.compile(r"[A-Za-z0-9_.:%@/,+-]*")
_warned: set[Path] = set()
_log = logging.getLogger("devices")


@dataclass(frozen=True)
class HostConfig:
    """The settings of one host, tokens expanded.

    Attributes:
        key_files: those that the file names, or OpenSSH's usual ones (`keys_named` tells them apart).
        only_keys: the agent may sign with these keys only.
        agent: socket of the SSH agent; None: there is none.
        jump: ProxyJump; "" without one. `proxy_command` likewise.
    """

    host: str
    port: int
    user: str
    key_files: tuple[Path, ...]
    keys_named: bool
    only_keys: bool
    agent: str | None
    host_key_alias: str
    known_hosts: tuple[Path, ...]
    jump: str
    proxy_command: str


def look_up(host: str, user: str | None, port: int | None) -> HostConfig:
    """The settings of a host; `user` and `port`, where they are given, take precedence over the file's.

    Raises:
        BoardUnreachableError: the file has errors, or OpenSSH's client does not answer.
    """
    path = Path.home() / ".ssh" / "config"
    answer = ask_client(path, host, user, port)
    if answer is None:
        answer = _read_without_client(path, host)
    return _host_config(answer, path, host, user, port)


def _host_config(answer: Answer, path: Path, host: str, user: str | None, port: int | None) -> HostConfig:
    def one(keyword: str, default: str = "") -> str:
        return answer.get(keyword, [default])[0]

    number = one("port", "22")
    if port is None and not (number.isdigit() and 0 < int(number) < 65536):
        raise BoardUnreachableError(f"cannot look up {host} in {path}: {number!r} is not a port")
    tokens = _Tokens(
        host=one("hostname", host),
        port=port or int(number),
        user=user or one("user") or getpass.getuser(),
        original=host,
        alias=one("hostkeyalias"),
        jump="" if one("proxyjump", "none").lower() == "none" else one("proxyjump"),
    )
    named = answer.get("identityfile", [])
    # Where none is named, the client prints its usual files, which differ between its versions.
    keys_named = bool(named) and not (len(named) >= 4 and all(name.startswith("~/.ssh/id_") for name in named))
    known_hosts = one("userknownhostsfile", _KNOWN_HOSTS[0]), one("globalknownhostsfile", _KNOWN_HOSTS[1])
    command = one("proxycommand", "none")
    return HostConfig(
        host=tokens.host,
        port=tokens.port,
        user=tokens.user,
        key_files=tuple(
            at_home(tokens.expand(name, "IdentityFile")) for name in (named or _DEFAULT_KEYS) if name.lower() != "none"
        ),
        keys_named=keys_named,
        only_keys=one("identitiesonly").lower() in ("yes", "true"),
        agent=_agent(one("identityagent", "SSH_AUTH_SOCK"), tokens),
        host_key_alias=tokens.alias,
        known_hosts=tuple(
            _at_home(tokens.expand(name, "UserKnownHostsFile"))
            for names in known_hosts
            for name in _split_names(names)
            if name.lower() != "none"
        ),
        jump=tokens.expand_jump(),
        proxy_command="" if command.lower() == "none" or tokens.jump else tokens.expand_command(command),
    )


@dataclass(frozen=True)
class _Tokens:
    """%h and the others of ssh_config(5), which `ssh -G` leaves as they are."""

    host: str
    port: int
    user: str
    original: str
    alias: str
    jump: str

    def expand(self, text: str, option: str) -> str:
        """Raises BoardUnreachableError."""

        def variable(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise BoardUnreachableError(f"{option} {text} names ${{{match[1]}}}, which the environment lacks")
            return os.environ[match[1]]

        return re.sub(r"\$\{(\w+)\}", variable, self._tokens(text))

    def expand_jump(self) -> str:
        """ProxyJump, in which ssh_config(5) allows fewer of them."""
        values = {"%": "%", "h": self.host, "n": self.original, "p": str(self.port), "r": self.user}
        return re.sub(r"%(.)", lambda match: values.get(match[1], match[0]), self.jump)

    def expand_command(self, command: str) -> str:
        """For the shell, which expands variables. Raises BoardUnreachableError: a name could be read as shell text."""
        for value in (self.host, self.original, self.user, self.alias):
            if value.startswith("-") or not _SAFE_IN_SHELL.fullmatch(value):
                raise BoardUnreachableError(f"{value!r} cannot be part of a ProxyCommand")
        return self._tokens(command)

    def _tokens(self, text: str) -> str:
        local = socket.gethostname()
        whole = f"{local}{self.host}{self.port}{self.user}"
        values = {
            "%": "%", "d": str(Path.home()), "h": self.host, "i": str(os.getuid()), "j": self.jump,
            "k": self.alias or self.original, "L": local.partition(".")[0], "l": local, "n": self.original,
            "p": str(self.port), "r": self.user, "u": getpass.getuser(),
            "C": hashlib.sha1(os.fsencode(f"{whole}{self.jump}")).hexdigest(),
        }  # fmt: skip
        return re.sub(r"%(.)", lambda match: values.get(match[1], match[0]), text)


def _agent(setting: str, tokens: _Tokens) -> str | None:
    """The socket that IdentityAgent names."""
    if setting.lower() == "none":
        return None
    if setting == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if re.fullmatch(r"\$\w+", setting):
        return os.environ.get(setting[1:])
    return str(_at_home(tokens.expand(setting, "IdentityAgent")))


def _at_home(name: str) -> Path:
    """A path for which OpenSSH took `~` as the account's home."""
    path, home = at_home(name), home_of_account()
    if home != Path.home() and path.is_relative_to(home) and home != Path("/"):
        return Path.home() / path.relative_to(home)
    return path


def _split_names(text: str) -> list[str]:
    """`ssh -G` prints paths without quotes: words that exist as one path together are one."""
    words, names = text.split(), []
    while words:
        count = next((n for n in range(len(words), 1, -1) if _exists(" ".join(words[:n]))), 1)  # the longest first
        names.append(" ".join(words[:count]))
        words = words[count:]
    return names


def _exists(name: str) -> bool:
    try:
        return at_home(name).exists()
    except OSError:  # it is too long
        return False


def _read_without_client(path: Path, host: str) -> Answer:
    """By paramiko's reader, with a warning. Raises BoardUnreachableError."""
    if not path.exists():
        return {}
    if path not in _warned:
        _warned.add(path)
        _log.warning(
            "the ssh command is not installed; without it %s is read in part: Match (other than host, originalhost and user), "
            "CanonicalizeHostname, comments behind values, and options after an Include are not understood\n"
            "  sudo apt-get install openssh-client",
            path,
        )
    try:
        found = paramiko.SSHConfig.from_text("\n".join(_with_includes(path, 0))).lookup(host)
    except (paramiko.SSHException, ImportError, OSError, ValueError) as err:
        raise BoardUnreachableError(
            f"cannot read {path} without the ssh command: {err}", hint="sudo apt-get install openssh-client"
        ) from err
    return {keyword: _values(value) for keyword, value in found.items()}


def _values(value: str | list[str]) -> list[str]:
    """paramiko's type of a setting is `str`, but IdentityFile is a list."""
    return value if isinstance(value, list) else [value]


def _with_includes(path: Path, depth: int) -> list[str]:
    """The lines of a file, each included file in place of its `Include`; paramiko ignores `Include`."""
    if depth > MOST_INCLUDES:
        raise BoardUnreachableError(f"{path} includes itself")
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.replace("=", " ", 1).split()
        if not words or words[0].lower() != "include":
            lines.append(line)
            continue
        for pattern in words[1:]:
            for found in included_files(pattern.strip('"')):
                lines += _with_includes(Path(found), depth + 1)
    return lines
