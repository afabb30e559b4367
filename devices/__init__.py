"""Boards: what they are, how to reach them, and running the agent there."""

from devices.cache import Cleaned, clean
from devices.connection import Completed, Connection, LocalConnection, connect
from devices.errors import (
    AgentError,
    AuthenticationError,
    BoardBusyError,
    BoardUnreachableError,
    DeviceError,
    HostKeyError,
    InventoryError,
)
from devices.inventory import InventoryEntry, add_board, inventory_path, read_inventory, remove_board
from devices.remote_agent import Campaign, Status, build_agent_archive, probe
from devices.remote_job import ContradictionError, RemoteJob, fetch_journal, remote_jobs

__all__ = [
    "AgentError",
    "AuthenticationError",
    "BoardBusyError",
    "BoardUnreachableError",
    "Campaign",
    "Cleaned",
    "Completed",
    "Connection",
    "ContradictionError",
    "DeviceError",
    "HostKeyError",
    "InventoryEntry",
    "InventoryError",
    "LocalConnection",
    "RemoteJob",
    "Status",
    "add_board",
    "build_agent_archive",
    "clean",
    "connect",
    "fetch_journal",
    "inventory_path",
    "probe",
    "read_inventory",
    "remote_jobs",
    "remove_board",
]
