"""A real OpenSSH server on loopback, with its own configuration and keys: a board to reach over SSH.

It runs as the user of the tests and accepts that user alone, only by the key that the tests made. What an
unprivileged server cannot do is check passwords: that takes the system's password file.
"""

import contextlib
import getpass
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")  # run through the login shell, as on JetPack
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
PRIVILEGE_SEPARATION = Path("/run/sshd")  # an OpenSSH server that runs as root insists on it

needs_sshd = pytest.mark.skipif(SSHD is None, reason="no OpenSSH server; apt-get install openssh-server")


def make_key(path, *options, kind="ed25519", passphrase=""):
    """A key pair; its public half as text."""
    argv = ["ssh-keygen", "-q", "-t", kind, *options, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True)
    return Path(f"{path}.pub").read_text()


@contextlib.contextmanager
def running_agent(socket_path, *keys, passphrase=""):
    """A real ssh-agent at a socket, with keys; they are typed in by a helper program, as a desktop does it."""
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL) as agent:
        try:
            for _ in range(1000):
                if Path(socket_path).exists():
                    break
                time.sleep(0.01)
            typing = Path(f"{socket_path}.typing")
            typing.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
            typing.chmod(0o755)
            environment = os.environ | {
                "SSH_AUTH_SOCK": str(socket_path), "SSH_ASKPASS": str(typing), "SSH_ASKPASS_REQUIRE": "force",
            }  # fmt: skip
            for key in keys:
                subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True, capture_output=True)
            yield
        finally:
            agent.terminate()


class Sshd:
    """A server that gives its sessions `home` as their home folder.

    largest_file: no file written there may be longer, which is how a full disk looks to one file.
    shell: the login shell, which gets every command and the SFTP server after `-c`; a list of words.
    settings: further lines of its configuration.
    bound_by_modes: root's sessions are refused what a file's mode refuses, as ordinary users are.
    """

    def __init__(
        self, folder, authorized_key, *, largest_file=None, port=None, shell=None, settings=(), bound_by_modes=False
    ):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.host_key = folder / "host_key"
        if not self.host_key.exists():
            make_key(self.host_key)
        self.largest_file, self.bound_by_modes = largest_file, bound_by_modes
        self.port = port or self._free_port()
        (folder / "authorized_keys").write_text(authorized_key)
        self.config = folder / "sshd_config"
        self.config.write_text(
            f"Port {self.port}\n"
            "ListenAddress 127.0.0.1\n"
            f"HostKey {self.host_key}\n"
            "PidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\n"
            "StrictModes no\n"
            "UsePAM no\n"
            "PasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\n"
            "MaxStartups 100\n"
            f"SetEnv HOME={self.home}\n" + "".join(f"{line}\n" for line in (*settings, *self._shell_settings(shell)))
        )
        self.process = None

    def _shell_settings(self, shell):
        if shell is None:
            return [f"Subsystem sftp internal-sftp -d {self.home}"]
        command = " ".join(map(str, shell))
        return [f"Subsystem sftp {SFTP_SERVER}", f'ForceCommand cd && exec {command} -c "$SSH_ORIGINAL_COMMAND"']

    def start(self):
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        self.process = subprocess.Popen(
            [
                *(bound if self.bound_by_modes and os.geteuid() == 0 else []),
                SSHD,
                "-D",
                "-E",
                str(self.folder / "sshd.log"),
                "-f",
                str(self.config),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            restore_signals=False,  # SIGXFSZ stays ignored: writing too much is an error there, not the end
            preexec_fn=self._limit if self.largest_file else None,
        )
        for _ in range(1000):
            if self._listens():
                return self
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.01)
        raise AssertionError(f"sshd does not listen: {(self.folder / 'sshd.log').read_text()}")

    def stop(self):
        """The server and every connection to it; processes that sessions started continue."""
        if self.process is not None:
            self.cut()
            self.process.terminate()
            self.process.wait(10)
            self.process = None
            while self._listens():  # a child that was just being born may still hold the port
                time.sleep(0.01)

    def cut(self):
        """Break every connection, as a pulled cable does; the number of connections."""
        sessions = self.sessions()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(sessions)

    def sessions(self):
        """Processes that serve connections: children and grandchildren of the server that are sshd themselves."""
        found, queue = [], [self.process.pid]
        while queue:
            for child in _children(queue.pop()):
                if "sshd" in _name(child):
                    found.append(child)
                    queue.append(child)
        return found

    @property
    def address(self):
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def known_hosts_line(self):
        return f"[127.0.0.1]:{self.port} {Path(f'{self.host_key}.pub').read_text()}"

    @property
    def fingerprint(self):
        """As OpenSSH's own tool computes it."""
        shown = subprocess.run(["ssh-keygen", "-lf", str(self.host_key)], check=True, capture_output=True, text=True)
        return shown.stdout.split()[1]

    def _limit(self):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file, self.largest_file))

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @staticmethod
    def _free_port():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]


def _children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return []


def _name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return ""


def write_python_wrapper(path):
    """What stands for the board's Python: the one that runs the tests, with its packages."""
    packages = os.environ.get("PYTHONPATH", "")
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


def set_up_user(home, monkeypatch):
    """A user with a home of their own, an SSH key in it, and nothing else; the key's public half."""
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return make_key(home / ".ssh" / "id_ed25519")


def end_agents(board):
    """End what jobs left running on a board; by their process ids, from their status files."""
    for status in (board.home / ".lightnas-edge" / "jobs").glob("*/status.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a test may have put anything there
            pid = json.loads(status.read_bytes())["pid"]
            if "agent" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
