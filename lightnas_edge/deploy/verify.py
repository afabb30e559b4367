"""The network on the board: measured together with the table's sentinels, its outputs compared, and a verdict."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import devices
from devices import Connection, Status
from lightnas_edge.deploy.judge import AT_LEAST, LABELS, TIMED, Judgement, check_targets, result_line, rounds_needed
from lightnas_edge.deploy.statistics import CONFIDENCE
from lightnas_edge.deploy.turns import unfinished_journal
from lightnas_edge.deploy.verify_export import (
    ScoredImages,
    arithmetic_of,
    judge_export,
    measure_export,
    predictions,
    require_engine,
)
from lightnas_edge.errors import VerifyError
from lightnas_edge.measuring import ROUND_S, MeasurementProtocol, Settings
from lightnas_edge.predictor import load_predictor
from lightnas_edge.records.deployment import VerificationRecord
from lightnas_edge.records.html_table import html_table
from lightnas_edge.runs import Export, Run
from lightnas_edge.train import load_network

IMAGES = 1000
ROUNDS = 40
ENERGY_ROUNDS = 3


@dataclass(frozen=True)
class Verification:
    """A verdict with its record, as `verify/verification.json` holds it."""

    judgement: Judgement
    record: VerificationRecord
    path: Path

    @property
    def line(self) -> str:
        return result_line(self.record)

    def __repr__(self) -> str:
        return f"<Verification on {self.record.host}: {self.line}>"

    def _repr_html_(self) -> str:
        rows = [
            (
                LABELS[each.metric], "not available" if each.value is None else f"{each.value:.4g} {each.unit}",
                "not available" if each.interval is None else "{:.4g} to {:.4g}".format(*each.interval),
                f"at {'least' if each.metric in AT_LEAST else 'most'} {each.target:g} {each.unit}", each.verdict,
            )
            for each in self.record.budgets
        ]  # fmt: skip
        mark = "SIMULATED: " * self.record.simulated
        title = f"{mark}{self.record.verdict} on {self.record.host}, n={self.record.measured.n}"
        columns = ("metric", "measured", f"{self.record.confidence:.0%} interval", "budget", "verdict")
        return html_table(title, columns, rows, note=self.record.reason)


def default_host(run: Run, command: str = "verify") -> str:
    """Where the run's table was measured. `command`: that needs it, for the remedy.

    Raises:
        VerifyError: the run does not say how that board is reached. A generic Linux machine may be any machine.
    """
    fingerprint = run.record.fingerprint
    board = fingerprint.get("board")
    if run.record.host is not None:
        return run.record.host
    if fingerprint.get("simulated") and isinstance(board, str):
        return board if board.startswith("virtual:") else f"virtual:{board}"
    generic = board in (None, "generic-linux")
    names = [] if generic else [name for name, entry in devices.read_inventory().items() if entry.board == board]
    if len(names) == 1:
        return names[0]
    named = shlex.join(["lightnas-edge", command, str(run.folder), "--host"])
    here = f" (`{named} localhost` if it is this machine)" if generic else ""
    raise VerifyError(
        f"the run's table was measured on {board or 'an unnamed board'}, and the run does not say how that board is reached",
        hint=f"name it: `{named} HOST`{here}",
    )


def run_settings(
    run: Run, targets: Mapping[str, float] | None = None, *, rounds: int | None = None, seed: int = 0
) -> Settings:
    """How the run's predictor was measured: engine, batch, threads. The precision is that of what is verified.

    Args:
        targets: what will be judged; the budgets of the run when None. They decide about rounds and energy.
        rounds: as many as the targets need when None.

    Raises:
        RunError: the run has no network, or several below it.
    """
    run.found  # noqa: B018  # names the networks below a search that found several
    asked = run.targets if targets is None else targets
    # The number of rounds must not depend on the samples: no extra rounds.
    protocol = MeasurementProtocol(rounds=rounds or rounds_for(asked), seed=seed, extra_rounds=0, round_s=ROUND_S)
    return replace(Settings.like(run.record.fingerprint, protocol), energy_rounds=energy_rounds_for(asked))


def rounds_for(targets: Mapping[str, float]) -> int:
    """Rounds that every statistic of the targets needs for an interval, with a tenth to spare; at least ROUNDS."""
    return max([ROUNDS, *(math.ceil(1.1 * rounds_needed(metric)) for metric in targets if metric in TIMED)])


def energy_rounds_for(targets: Mapping[str, float]) -> int:
    """Rounds with energy: none unless it is judged."""
    return ENERGY_ROUNDS if {"energy_mj", "net_energy_mj"} & set(targets) else 0


def verify_network(
    run: Run | Path,
    connection: Connection,
    *,
    targets: Mapping[str, float] | None = None,
    settings: Settings | None = None,
    data: str | Path | None = None,
    images: int = IMAGES,
    confidence: float = CONFIDENCE,
    on_progress: Callable[[Status], None] | None = None,
    sudo_password: str | None = None,
    command: str | None = None,
) -> Verification:
    """Measure the exported network on the board of the connection and judge it; writes `verify/`.

    An interrupted verification of the same export is resumed. The record and the journal of the last finished one stay until
    this one is finished.

    Args:
        targets: metric -> budget, in addition to those of the run and in place of those of the same metric.
        settings: how to measure; as the run's predictor was measured when None. The precision is always that of the export.
        data: where the training's images are now, if they have moved.
        sudo_password: where the settings change the board and its sudo asks for one.
        images: how many validation images are scored on the board, at most.
        command: that verifies it so, without its number of rounds; remedies repeat it. None: one with the host alone.

    Raises:
        BudgetError: no budget, or one that is no positive number.
        VerifyError: the engine does not take such a file, or the board could not run the network.
        RunError: nothing is exported, the export is older than the weights, or another process writes to the run.
        DeviceError: the board is unreachable or busy.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    run.found  # noqa: B018
    asked = {**run.targets, **(targets or {})}
    check_targets(asked)
    settings = run_settings(run, asked) if settings is None else settings
    with run.writing("verify"):
        export = _export_for(run, settings.batch)
        require_engine(run, export.record, settings.backend)
        settings = replace(settings, precision=export.record.precision)
        network = load_network(run)
        scored = ScoredImages.of(run, network, data, images, settings.batch)
        predictors = {path: load_predictor(path, run.space) for path in run.predictors.values()}
        predicted = predictions(
            run, predictors, arithmetic_of(export.record), measured={"streams": settings.streams}, confidence=confidence
        )
        journal = unfinished_journal(run.verify_folder, export.record.sha256, connection.name, settings)
        measured = measure_export(
            run, network, export.content, connection, journal, settings, scored,
            on_progress=on_progress, sudo_password=sudo_password,
        )  # fmt: skip
        judgement, record = judge_export(
            run, export.record, export.content, measured, scored, predicted, asked, settings, connection.name,
            confidence=confidence, command=command,
        )  # fmt: skip
        return Verification(judgement, record, run.save_verification(record, journal))


def _export_for(run: Run, batch: int) -> Export:
    export = run.export
    if export.record.batch != batch:
        raise VerifyError(
            f"{export.path} is for batch {export.record.batch}, the predictor for batch {batch}",
            hint=f"`lightnas-edge export {shlex.quote(str(run.folder))}` writes it for the predictor's batch",
        )
    return export
