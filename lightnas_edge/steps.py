"""The steps of the work for a notebook: one function each, with the defaults of the command of the same purpose.

`import lightnas_edge as le` offers them. Each calls the functions below it (docs/python.md), which take every detail.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import devices
import luts
from devices import Status
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.deploy import Verification, default_host, export_network, run_settings, verify_network
from lightnas_edge.errors import RunError
from lightnas_edge.graph import Precision
from lightnas_edge.measuring import (
    MeasurementProtocol,
    Settings,
    measure,
    sample_architectures,
    select_operators,
    write_profile_job,
    write_sample_job,
)
from lightnas_edge.measuring.jobs import Job
from lightnas_edge.measuring.tables import table_path
from lightnas_edge.predictor import AdditivePredictor, Predictor
from lightnas_edge.predictor.from_tables import fit_tables
from lightnas_edge.records.deployment import TrainingRecord
from lightnas_edge.records.html_table import html_table
from lightnas_edge.report import Report, build_report
from lightnas_edge.runs import NETWORKS, Export, Run
from lightnas_edge.search import SearchConfig, SearchResult, begin_run, check_budgets, run_search
from lightnas_edge.search.constraints import count_for
from lightnas_edge.search.sources import board_from, keepable, make_budgets, require_binding, sources_of
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train import Initial, TrainConfig, default_initial, train_network

OPERATOR_ROUNDS, NETWORK_ROUNDS, NETWORKS_MEASURED = 25, 15, 10

Progress = Callable[[Status], None]

_log = logging.getLogger(__name__)


def measure_operators(
    space: Space,
    host: str = "localhost",
    *,
    rounds: int = OPERATOR_ROUNDS,
    settings: Settings | None = None,
    only: Sequence[str] = (),
    out: Path | None = None,
    fresh: bool = False,
    on_progress: Progress | None = None,
) -> luts.Lut:
    """Measure every operator of a space on a board: its look-up table, latencies in milliseconds. As `profile-device`.

    Args:
        host: a board's name, `localhost`, or `virtual:BOARD` (every number is simulated then).
        rounds: in which every operator is visited once.
        settings: engine, precision, batch and protocol instead of the board's usual ones; `rounds` is not used then.
        only: keys, NAME@LAYER or globs; all operators when empty.
        out: the table's file (default: in the current folder, named after host, space and settings). An existing one is continued.
        fresh: measure from the beginning.

    Raises:
        DeviceError: the board is unreachable or busy, or the agent failed.
        SpaceError: a pattern of `only` matches nothing.
    """
    operators = select_operators(space, only)
    return _measured(
        host,
        settings or _settings(host, rounds),
        lambda folder, chosen: write_profile_job(folder, space, chosen, operators=operators),
        out, space, "", fresh, on_progress,
    )  # fmt: skip


def measure_networks(
    space: Space,
    host: str = "localhost",
    *,
    count: int = NETWORKS_MEASURED,
    networks: Sequence[Architecture] | None = None,
    rounds: int = NETWORK_ROUNDS,
    seed: int = 0,
    settings: Settings | None = None,
    out: Path | None = None,
    fresh: bool = False,
    on_progress: Progress | None = None,
) -> luts.Lut:
    """Measure whole networks with random weights on a board, to fit a predictor and to know its error. As `sample`.

    Everything else is as of `measure_operators`.

    Args:
        count: of networks; the first ten are the same on every board, the others random, by `seed`.
        networks: these instead.

    Raises:
        DeviceError: the board is unreachable or busy, or the agent failed.
    """
    chosen = sample_architectures(space, count, seed) if networks is None else list(networks)
    return _measured(
        host,
        settings or _settings(host, rounds),
        lambda folder, how: write_sample_job(folder, space, how, chosen),
        out, space, "-networks", fresh, on_progress,
    )  # fmt: skip


def fit_predictor(
    space: Space,
    operators: luts.Lut | None,
    networks: luts.Lut | Sequence[luts.Lut] = (),
    *,
    metric: str = "latency_ms",
    prior: AdditivePredictor | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Predictor:
    """A predictor of whole networks, the best method by cross-validation. As `fit`.

    Args:
        metric: one of `luts.METRICS`.
        prior: the predictor of another board, to transfer.
        out: a file to write it to.

    Raises:
        PredictorError: nothing to fit to, or the tables do not fit the space or each other.
        LutMissError: the table lacks operators.
    """
    samples = [networks] if isinstance(networks, luts.Lut) else list(networks)
    return fit_tables(space, operators, samples, metric=metric, prior=prior, seed=seed, out=out).predictor


@dataclass(frozen=True)
class Search:
    """A finished search: its run, and the network of every budget."""

    run: Run
    results: tuple[SearchResult, ...]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[SearchResult]:
        return iter(self.results)

    def __getitem__(self, place: int) -> SearchResult:
        return self.results[place]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The run of each network, in the order of `results`: what training, export and verification take."""
        if len(self.results) == 1:
            return (self.run,)
        return tuple(Run.open(self.run.folder / NETWORKS / result.budget.name) for result in self.results)

    def __repr__(self) -> str:
        found = "; ".join(", ".join(_predicted(result)) for result in self.results)
        return f"<Search {self.run.folder}: {len(self)} network{'s'[: len(self) != 1]}: {found}>"

    def _repr_html_(self) -> str:
        columns = ("budget", "predicted", "of the tightest limit", "supernet accuracy", "network")
        rows = [
            (
                result.budget.name, ", ".join(_predicted(result)), f"{result.used[result.binding]:.1%} of {result.binding}",
                "not available" if result.chosen.accuracy is None else f"{result.chosen.accuracy:.1%}", result.architecture,
            )
            for result in self.results
        ]  # fmt: skip
        mark = "SIMULATED: " * any(result.simulated for result in self.results)
        return html_table(f"{mark}search in {self.run.folder}", columns, rows)


def search_networks(
    predictors: Predictor | Sequence[Predictor],
    limits: Mapping[str, float] | Sequence[Mapping[str, float]],
    data: DataSet | str | Path,
    out: str | Path,
    *,
    config: SearchConfig | None = None,
    table: luts.Lut | None = None,
    host: str | None = None,
    fresh: bool = False,
) -> Search:
    """Search for the most accurate network within each set of limits: one search for all of them. As `search`.

    Args:
        predictors: of one board, one for each measured metric.
        limits: metric -> limit in the metric's unit, such as `{"latency_ms": 20.0, "macs_m": 300.0}`; several for several networks.
        data: a data set, `digits`, or a folder with train/CLASS/* and val/CLASS/*.
        out: the run directory. A search of the same question that was interrupted there continues.
        config: epochs, batch size, method, confidence.
        table: of the operators; the run keeps a copy, so that `verify_run` can separate drift from the network.
        host: how the board is reached; by default where `table` was measured.
        fresh: move an earlier run aside and begin again.

    Raises:
        BudgetError, InfeasibleBudgetError: limits that nothing keeps, or that every network keeps.
        DataError, RunError: images that cannot be learned from; another search in `out`.
    """
    predictors = [predictors] if isinstance(predictors, Predictor) else list(predictors)
    board = board_from(predictors, None if table is None else table.path)
    space, config, folder = board.space, config or SearchConfig(), Path(out)
    budgets = make_budgets([board], [limits] if isinstance(limits, Mapping) else list(limits), name_boards=False)
    images = data if isinstance(data, DataSet) else load_data(data, space=space, seed=config.seed)
    budgets = count_for(budgets, len(images.classes))
    budgets, impossible = keepable(space, budgets, config.confidence)
    for error in impossible:
        _log.warning("%s", error)
    check_budgets(space, budgets, config)
    for slack in require_binding(budgets, config.confidence):
        _log.warning("%s", slack)
    host = host or (None if table is None else table.host)
    run, _ = begin_run(folder, space, images, budgets, config, table=board.table, host=host, fresh=fresh)
    results = run_search(
        folder, space.with_classes(len(images.classes)), images, budgets, config, sources=sources_of([board], budgets)
    )
    return Search(run, tuple(results))


def train_run(
    run: Run | str | Path,
    data: DataSet | str | Path | None = None,
    *,
    config: TrainConfig | None = None,
    initial: Initial | None = None,
    from_scratch: bool = False,
    fresh: bool = False,
) -> TrainingRecord:
    """Train the network of a run and keep the weights of its best epoch. As `train`.

    Args:
        data: that of the search by default.
        config: epochs, batch size, learning rate.
        initial: weights to begin with; by default those of the network in the supernet of its search, if the run has them.
        from_scratch: random numbers instead.
        fresh: not from an earlier checkpoint.

    Raises:
        RunError: the run has no network, or holds another training.
        DataError: the images cannot be read.
    """
    run = _opened(run)
    if not isinstance(data, DataSet):
        data = load_data(data or run.data.source, space=run.space, seed=run.record.seed)
    if initial is None and not from_scratch:
        initial = default_initial(run)
    config = config or TrainConfig(seed=run.record.seed)
    return train_network(run, data, config, initial=initial, resume=not fresh).record


def export_run(run: Run | str | Path, *, precision: Precision | None = None) -> Export:
    """Write the trained network as ONNX and compare it with PyTorch. As `export`, which has more options.

    Raises:
        ExportError: the network cannot be written in this precision, or the file computes something else.
        RunError: the run has no trained network.
    """
    return export_network(_opened(run), precision=precision)


def verify_run(
    run: Run | str | Path,
    host: str | None = None,
    *,
    targets: Mapping[str, float] | None = None,
    rounds: int | None = None,
    on_progress: Progress | None = None,
) -> Verification:
    """Measure the exported network on the board and judge every budget: met, missed or inconclusive. As `verify`.

    Args:
        host: the board of the run's table by default.
        targets: metric -> budget, in addition to those of the search.
        rounds: visits of the network; as many as the budgets' statistics need by default.

    Raises:
        VerifyError: the board could not run the network, or is not known.
        DeviceError: the board is unreachable or busy.
    """
    run = _opened(run)
    settings = run_settings(run, {**run.targets, **(targets or {})}, rounds=rounds)
    connection = devices.connect(host or default_host(run))
    return verify_network(run, connection, targets=targets, settings=settings, on_progress=on_progress)


def report_run(run: Run | str | Path) -> Report:
    """Write report.html, report.md and report.json into the run. As `report`.

    Raises:
        RunError: the folder is no run directory.
    """
    return build_report(_opened(run).folder)


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _settings(host: str, rounds: int) -> Settings:
    return Settings(backend=devices.connect(host).backend, protocol=MeasurementProtocol(rounds=rounds))


def _measured(
    host: str,
    settings: Settings,
    write: Callable[[Path, Settings], Job],
    out: Path | None,
    space: Space,
    suffix: str,
    fresh: bool,
    on_progress: Progress | None,
) -> luts.Lut:
    table = Path(out) if out is not None else table_path(host, space.name, settings, suffix)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as folder:
        job = write(Path(folder), settings)
        lut = measure(devices.connect(host), job, table, fresh=fresh, on_progress=on_progress)
    missing = [key for key in job.keys if key not in lut.entries and key not in lut.networks]
    if missing:
        failed = [f"  {key}: {lut.failed[key].message}" for key in missing[:5] if key in lut.failed]
        raise RunError(
            "\n".join([f"{table} lacks {len(missing)} of {len(job.keys)} measurements", *failed]),
            hint="measure again: what was measured is kept, and failed ones are tried again",
        )
    return lut


def _predicted(result: SearchResult) -> list[str]:
    mark = "SIMULATED, predicted" if result.simulated else "predicted"
    return [
        f"{mark} {result.predicted[each.metric]:.4g} {each.unit} of {each.target:g}"
        for each in result.budget.constraints
    ]
