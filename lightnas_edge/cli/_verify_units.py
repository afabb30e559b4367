"""One network on several units, and in several power modes: what `verify` does with more than one measurement."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devices import Connection
from lightnas_edge.cli._console import info
from lightnas_edge.cli._fleet import for_each_host, open_fleet, unit_folder
from lightnas_edge.cli._fleet_verdict import show_guarantees
from lightnas_edge.cli._verdicts import EXIT
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.files import write_atomic
from lightnas_edge.fleet.campaign import first_line
from lightnas_edge.records.deployment import VerificationRecord
from lightnas_edge.records.fleet import FLEET_RECORD, FleetRecord
from lightnas_edge.runs import Run

if TYPE_CHECKING:
    from lightnas_edge.deploy import Verification

_RANK = {"met": 0, "inconclusive": 1, "missed": 2}


@dataclass(frozen=True)
class Subject:
    """What is verified: the network of a run, or a model file where `run` is None.

    `folder`: of the records. `measure`: with the options of a command, on a connection that is open or else on their host.
    """

    run: Run | None
    folder: Path
    measure: Callable[[argparse.Namespace, Connection | None], Verification]

    def verify(
        self, arguments: argparse.Namespace, folder: Path, connection: Connection | None = None
    ) -> VerificationRecord:
        """Measure once, with record and journal in a folder of their own: the next measurement of a run would replace them."""
        if self.run is None:
            return self.measure(argparse.Namespace(**{**vars(arguments), "out": folder}), connection).record
        record = self.measure(arguments, connection).record
        for name in ("verification.json", "journal.jsonl"):
            write_atomic(folder / name, (self.run.verify_folder / name).read_bytes())
        return record

    def keep(self, record: VerificationRecord, folder: Path, about: FleetRecord | None = None) -> None:
        """Have the run keep this verification, whose journal is in the folder; a model file gets its report.

        Args:
            about: all units, where several were verified.
        """
        if self.run is None:
            from lightnas_edge.report import build_verification_report

            if about is not None:
                info(f"report: {build_verification_report(record, self.folder, fleet=about).html}")
            return
        if about is not None:
            about.save(self.folder / FLEET_RECORD)
        with self.run.writing("verify"):
            copy = self.folder / "journal.jsonl.part"
            copy.write_bytes((folder / "journal.jsonl").read_bytes())
            self.run.save_verification(record, copy)


@dataclass(frozen=True)
class VerifiedUnits:
    """code: 0, or that of a unit that could not be verified. about: all units of the model."""

    records: tuple[VerificationRecord, ...]
    code: int
    about: FleetRecord

    @property
    def exit_code(self) -> int:
        return max([self.code, *(EXIT[record.verdict] for record in self.records)])


def worst(records: Sequence[VerificationRecord]) -> VerificationRecord:
    """Of several measurements: the worst verdict, among equal ones the slowest."""
    return max(records, key=lambda record: (_RANK.get(record.verdict, 3), record.measured.median.latency_ms))


def verify_units(arguments: argparse.Namespace, subject: Subject, folder: Path) -> VerifiedUnits:
    """Every unit that --host names measures the network; what they say about all units of their model is shown."""
    engine = arguments.backend if subject.run is None else subject.run.record.fingerprint.get("backend")
    fleet = open_fleet(
        arguments,
        backend=str(engine) if engine else None,
        sets_state=arguments.lock_clocks or arguments.power_mode is not None,
    )
    units = {} if fleet is None else {unit.host: unit for unit in fleet.units}
    lost: dict[str, str] = {}

    def verify(host: str) -> VerificationRecord:
        unit = units[host]
        try:
            if unit.lost is not None:
                raise unit.lost
            mine = argparse.Namespace(**{**vars(arguments), "host": host})
            return subject.verify(mine, unit_folder(folder, host), unit.connection)
        except LightnasEdgeError as error:
            lost[host] = first_line(error)
            raise

    records, code = for_each_host(arguments, verify)
    about = show_guarantees(records, lost, folder, quiet=arguments.json)
    return VerifiedUnits(tuple(records), code, about)
