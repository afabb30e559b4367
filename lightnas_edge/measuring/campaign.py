"""Running a job on a board and fetching its table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import luts
from devices import Campaign, Connection, Status, TableWriteError
from lightnas_edge.files import set_aside
from lightnas_edge.measuring.jobs import Job

_FIRST_BYTES = 1 << 20  # the room that a table needs at least


def measure(
    connection: Connection,
    job: Job,
    table: Path,
    *,
    fresh: bool = False,
    on_progress: Callable[[Status], None] | None = None,
    outputs: Path | None = None,
    sudo_password: str | None = None,
) -> luts.Lut:
    """Run a job where the connection leads; the table on this side grows while the agent measures.

    An existing table is continued: its visits are reused. With `fresh` it is set aside as `.old` first (`set_aside`).

    Args:
        table: the look-up table on this side.
        outputs: a folder for what the job's evaluations yield.
        sudo_password: for a job that changes the board's settings, where sudo asks for one.

    Raises:
        DeviceError: the board is busy or unreachable, or the agent failed; the table keeps what was measured.
        TableWriteError: the table cannot be written; nothing was sent to the board.
        LutError: an existing table cannot be continued.
    """
    _require_writable(table)
    campaign = Campaign(connection, job.folder, sudo_password)
    campaign.start(fresh=fresh, journal=table if table.exists() and not fresh else None)
    if fresh:  # after the board has taken the job
        set_aside(table)
    campaign.follow(table, on_progress)
    found = luts.read(table, host=connection.name)
    networks_failed = any(visit.is_network and visit.key in found.failed for visit in found.failures)
    if outputs is not None and not networks_failed:  # those have no outputs, and the table says why
        campaign.fetch_outputs(outputs)
    return found


def _require_writable(table: Path) -> None:
    """Before an agent is started that would measure for nobody. Raises TableWriteError."""
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        if table.exists():
            with table.open("ab"):
                pass
        with tempfile.TemporaryFile(dir=table.parent) as file:
            file.write(bytes(_FIRST_BYTES))
    except OSError as err:
        cause = f"{table.parent} is not a folder" if isinstance(err, FileExistsError) else err.strerror or err
        raise TableWriteError(
            f"cannot write {table}: {cause}",
            hint="--out names another place for it; nothing was sent to the board",
        ) from err
