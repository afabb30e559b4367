"""Boards: what they are, how to reach them, and running the agent there."""
# Part of lightnas-edge.

from devices.board_setup import restore_board
from devices.cache import Cleaned, clean
from devices.connection import Completed, Connection
from devices.errors import (
    AgentFailedError,
    AuthenticationError,
    BoardBusyError,
    BoardUnreachableError,
    ContradictionError,
    DeviceError,
    HostKeyError,
    InventoryError,
    PlaceError,
    TableWriteError,
)
from devices.factory import connect
from devices.inventory import InventoryEntry, add_board, inventory_path, read_groups, read_inventory, remove_board
from devices.local import LocalConnection
from devices.remote_agent import Campaign, build_agent_archive, probe
from devices.remote_job import RemoteJob, discard_journal, fetch_journal, remote_jobs
from lightnas_edge.records.job import Status

__all__ = [
    "AgentFailedError",
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
    "PlaceError",
    "RemoteJob",
    "Status",
    "TableWriteError",
    "add_board",
    "build_agent_archive",
    "clean",
    "connect",
    "discard_journal",
    "fetch_journal",
    "inventory_path",
    "probe",
    "read_groups",
    "read_inventory",
    "remote_jobs",
    "remove_board",
    "restore_board",
]
