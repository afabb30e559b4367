"""Boards over SSH (paramiko): files by SFTP, commands as argument lists, a lost link is opened again.

Nothing is installed on the board: an SSH server with SFTP and Python 3.6 are enough.
"""

from devices.ssh.link import fetch_host_key
from devices.ssh.session import SshConnection, connect_ssh

__all__ = ["SshConnection", "connect_ssh", "fetch_host_key"]
