"""Builds engines before anything is timed, in a process that does nothing else and ends afterwards.

A build may take half an hour and much memory: on a small board it fails while engines are loaded.
"""

import functools
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from profiler.errors import MeasureError
from profiler.supervisor import Supervisor

SMALL_SHARE = 0.25  # of the usual workspace, after memory ran out


class Model(NamedTuple):
    """A model, and the first key that needs it."""

    sha256: str
    path: str
    key: str


class BuildProgress(NamedTuple):
    """How far the phase is. `elapsed_s` of the present build grows as long as the agent lives."""

    done: int
    total: int
    key: str
    elapsed_s: float
    eta_s: Optional[float]


def build_missing(
    supervisor: Supervisor,
    models: Sequence[Model],
    report: Callable[[BuildProgress], None],
    log: Callable[[str], None],
) -> Dict[str, MeasureError]:
    """Build what is not built yet; the failures, by model.

    Where something was built, the process has ended afterwards: the next request starts another one.
    """
    missing = [model for model in models if not _is_built(supervisor, model)]
    if not missing:
        return {}
    log("{} of {} engines are to be built".format(len(missing), len(models)))
    failures: Dict[str, MeasureError] = {}
    spent_s: List[float] = []
    for done, model in enumerate(missing):
        started_s = time.monotonic()
        eta_s = round(sum(spent_s) / len(spent_s) * (len(missing) - done), 1) if spent_s else None
        note = functools.partial(_note, report, BuildProgress(done, len(missing), model.key, 0.0, eta_s), started_s)
        note()
        outcome = "built"
        try:
            _build(supervisor, model, note, log)
        except MeasureError as err:
            failures[model.sha256] = err
            outcome = "not built: {}: {}".format(err.code, err.message)
        spent_s.append(time.monotonic() - started_s)
        log("engine {} of {}, {:.1f} s, {}: {}".format(done + 1, len(missing), spent_s[-1], model.key, outcome))
    supervisor.close()
    return failures


def _note(report: Callable[[BuildProgress], None], progress: BuildProgress, started_s: float) -> None:
    report(progress._replace(elapsed_s=round(time.monotonic() - started_s, 1)))


def _is_built(supervisor: Supervisor, model: Model) -> bool:
    try:
        return supervisor.is_built(model.sha256, model.path)
    except MeasureError as err:
        return err.code == "model"  # the file is missing or damaged: loading it reports that


def _build(supervisor: Supervisor, model: Model, note: Callable[[], None], log: Callable[[str], None]) -> None:
    try:
        supervisor.build(model.sha256, model.path, 1.0, note)
    except MeasureError as err:
        # What an earlier build did to the process, or to its memory, must not cost this model the session.
        if not (err.fatal or err.code in ("memory", "crash")):
            raise
        share = SMALL_SHARE if err.code == "memory" else 1.0
        smaller = " and with a quarter of the workspace" if err.code == "memory" else ""
        log("{}; building {} again, alone{}".format(err.message, model.key, smaller))
        supervisor.close()
        supervisor.build(model.sha256, model.path, share, note)
