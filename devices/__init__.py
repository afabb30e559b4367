"""Boards: what they are, how to reach them, and running the agent there."""

from devices.cache import Cleaned, clean
from devices.connection import Completed, Connection, LocalConnection, connect
from devices.deploy import Campaign, Status, build_agent_archive, probe
from devices.errors import (
    AgentError,
    AuthenticationError,
    BoardBusyError,
    BoardUnreachableError,
    DeviceError,
    HostKeyError,
    InventoryError,
)
from devices.held import ContradictionError, HeldJob, fetch_journal, held_jobs
from devices.inventory import Board, add_board, inventory_path, read_inventory, remove_board

__all__ = [
    "AgentError",
    "AuthenticationError",
    "Board",
    "BoardBusyError",
    "BoardUnreachableError",
    "Campaign",
    "Cleaned",
    "Completed",
    "Connection",
    "ContradictionError",
    "DeviceError",
    "HeldJob",
    "HostKeyError",
    "InventoryError",
    "LocalConnection",
    "Status",
    "add_board",
    "build_agent_archive",
    "clean",
    "connect",
    "fetch_journal",
    "held_jobs",
    "inventory_path",
    "probe",
    "read_inventory",
    "remove_board",
]
