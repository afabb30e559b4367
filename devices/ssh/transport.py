"""An encrypted connection to a host: sockets, ProxyCommand, algorithms. Nobody has logged in yet."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

import paramiko

from devices.endpoint import Endpoint
from devices.errors import BoardUnreachableError
from devices.host_keys import HostKey
from devices.ssh.reasons import ANSWER_LIMIT_S, CONNECT_LIMIT_S, reason

_BROKEN = ("3des-cbc", "hmac-md5", "hmac-md5-96")  # algorithms that paramiko still offers


def open_socket(endpoint: Endpoint, stack: contextlib.ExitStack) -> socket.socket:
    """The way to an endpoint without jump hosts: a TCP connection, or the standard streams of its ProxyCommand.

    Raises:
        BoardUnreachableError: nothing answers.
    """
    sock = _proxied(endpoint, stack) if endpoint.proxy_command else _connected(endpoint)
    stack.callback(sock.close)
    return sock


def negotiate(
    endpoint: Endpoint, sock: socket.socket | paramiko.Channel, stack: contextlib.ExitStack
) -> paramiko.Transport:
    """Encrypted, not yet authenticated; the host key has not been looked at.

    Raises:
        BoardUnreachableError: the other side is no SSH server, or knows none of our algorithms.
    """
    transport = None
    try:
        transport = _Transport(sock)
        stack.callback(transport.close)
        logger = logging.getLogger("devices.paramiko")  # its own: messages about broken links are suppressed
        logger.setLevel(logging.CRITICAL + 1)
        transport.set_log_channel(logger.name)
        transport.banner_timeout = transport.handshake_timeout = CONNECT_LIMIT_S
        transport.auth_timeout = transport.channel_timeout = ANSWER_LIMIT_S
        options = transport.get_security_options()
        known = [name for name in endpoint.known_keys().algorithms if name in options.key_types]
        # Authenticated ciphers need no second pass over the data: files are sent twice as fast.
        ciphers = [name for name in options.ciphers if name not in _BROKEN]
        quick = [name for name in ciphers if "-gcm@" in name]
        options.ciphers = [*quick, *(name for name in ciphers if name not in quick)]
        options.digests = [name for name in options.digests if name not in _BROKEN]
        options.key_types = [*known, *(name for name in options.key_types if name not in known)]
        transport.start_client(timeout=CONNECT_LIMIT_S)
    except paramiko.ssh_exception.IncompatiblePeer as err:
        assert transport is not None
        raise BoardUnreachableError(
            f"this program and {endpoint.label} have no common algorithm\n{transport.compared()}",
            hint="allow one of ours in the board's /etc/ssh/sshd_config (Ciphers, KexAlgorithms, MACs, HostKeyAlgorithms)",
        ) from err
    except (paramiko.SSHException, EOFError, OSError) as err:
        way = f"\n  through ProxyCommand {endpoint.proxy_command}" if endpoint.proxy_command else ""
        raise BoardUnreachableError(f"SSH negotiation with {endpoint.label} failed: {reason(err)}{way}") from err
    return transport


def key_of(transport: paramiko.Transport) -> HostKey:
    """The host key that the other side presented."""
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


class _Transport(paramiko.Transport):
    """Remembers what the server offered, for the message when nothing fits."""

    _offered: dict[str, Sequence[str]] | None = None

    def _really_parse_kex_init(self, m: Any, ignore_first_byte: bool = False) -> Any:
        self._offered = super()._really_parse_kex_init(m, ignore_first_byte)  # type: ignore[misc]
        return self._offered

    def compared(self) -> str:
        """Both sides' algorithms, a line for each kind without a common one."""
        options = self.get_security_options()
        kinds = (
            ("key exchange", options.kex, "kex_algo_list"),
            ("host keys", options.key_types, "server_key_algo_list"),
            ("ciphers", options.ciphers, "client_encrypt_algo_list"),
            ("MACs", options.digests, "client_mac_algo_list"),
        )
        offered = self._offered or {}
        lines = [
            f"  {kind}: the board has {', '.join(offered[name])}; this program has {', '.join(ours)}"
            for kind, ours, name in kinds
            if name in offered and not set(ours) & set(offered[name])
        ]
        return "\n".join(lines)


def _connected(endpoint: Endpoint) -> socket.socket:
    host, port = endpoint.host, endpoint.port
    shown = endpoint.label if endpoint.label == host else f"{endpoint.label} ({host} port {port})"
    try:
        sock = socket.create_connection((host, port), timeout=CONNECT_LIMIT_S)
    except socket.gaierror as err:
        hint = "is it in boards.toml, ~/.ssh/config or DNS?"
        if host.endswith(".local"):
            hint = (
                "names in .local need avahi on the board and libnss-mdns here, and do not cross networks\n"
                "over USB a Jetson is 192.168.55.1"
            )
        raise BoardUnreachableError(f"there is no host {shown}: {err.strerror}", hint=hint) from err
    except UnicodeError as err:
        raise BoardUnreachableError(f"{shown} is not a host name: {err}") from err
    except ConnectionRefusedError as err:
        raise BoardUnreachableError(
            f"{shown} refuses connections",
            hint="does its SSH server run, and on this port? on the board: systemctl status ssh",
        ) from err
    except OSError as err:
        raise BoardUnreachableError(
            f"{shown} does not answer: {err.strerror or err}", hint="is it switched on, and in this network?"
        ) from err
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Without it, a board that was switched off is noticed after 15 minutes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(ANSWER_LIMIT_S * 1000))
    return sock


def _proxied(endpoint: Endpoint, stack: contextlib.ExitStack) -> socket.socket:
    """Our end of a socket pair; the other end is the command's standard input and output. The shell runs it, as in ssh."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {endpoint.proxy_command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,  # Ctrl-C is ours: the connection still stops the agent
        )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()

    stack.callback(end)
    return ours
