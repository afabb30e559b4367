"""Faults at seeded moments of real campaigns: `make faults`. Nothing may be lost, doubled, hung or left changed.

The kind, the seed and the number of a run decide it: a failure is repeated by `--kind NAME --first NUMBER --runs 1`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.bench import SshBench
from tests.faults.kinds import KINDS
from tests.faults.run import Kind, Outcome, carry_out

_COLUMNS = ("lost", "doubled", "hung", "tracebacks", "changed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", metavar="NAME", help="default: all in turn")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="of the first run of each kind")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="runs at once")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs that failed")
    arguments = parser.parse_args()
    known = {kind.name: kind for kind in KINDS}
    if unknown := [name for name in arguments.kind or () if name not in known]:
        parser.error(f"no kind {unknown[0]!r}; there are: {', '.join(known)}")
    chosen = [known[name] for name in arguments.kind or known]
    if not SshBench.available():
        print("no OpenSSH server: the faults of links are left out", file=sys.stderr)
        chosen = [kind for kind in chosen if not issubclass(kind.bench, SshBench)]
    jobs = [
        (chosen[at % len(chosen)].name, arguments.seed, arguments.first + at // len(chosen), arguments.keep)
        for at in range(arguments.runs)
    ]
    outcomes: list[Outcome] = []
    began_s = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes, _start, maxtasksperchild=20) as pool:
        try:
            for outcome in pool.imap_unordered(_carry_out, jobs):
                outcomes.append(outcome)
                _show(outcome, len(outcomes), len(jobs), time.monotonic() - began_s)
            pool.close()  # idle processes end without a signal
            pool.join()
        except KeyboardInterrupt:
            print("interrupted; the runs so far:", file=sys.stderr)
    return _report(outcomes, chosen, time.monotonic() - began_s)


def _start() -> None:
    """Of a process that carries out runs. Commands that it starts must know signals as a user's do."""
    os.setsid()  # Ctrl-C is for the process that reports
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # the run under way ends its processes


def _carry_out(job: tuple[str, int, int, bool]) -> Outcome:
    name, seed, number, keep = job
    kind = next(kind for kind in KINDS if kind.name == name)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    good = False
    try:
        outcome = carry_out(kind, seed, number, folder / "run")
        good = outcome.good
        return outcome if good or not keep else outcome._replace(notes=(*outcome.notes, f"kept: {folder}"))
    except Exception:  # of the campaign itself
        return Outcome(name, number, "failed", notes=(traceback.format_exc(),))
    finally:
        if good or not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _show(outcome: Outcome, done: int, total: int, elapsed_s: float) -> None:
    left_s = elapsed_s / done * (total - done)
    print(
        f"{done} of {total}, about {left_s / 60:.0f} min left: {outcome.kind} {outcome.number}: {outcome.end} in "
        f"{outcome.seconds:.0f} s ({'; '.join(note for note in outcome.notes if chr(10) not in note)})",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _report(outcomes: list[Outcome], kinds: list[Kind], elapsed_s: float) -> int:
    print(f"{'kind':26} {'runs':>5} {'recovered':>9} {'clear error':>11} {'failed':>6} " + " ".join(f"{name:>10}" for name in _COLUMNS))  # fmt: skip
    for name in [*(kind.name for kind in kinds), "all"]:
        rows = [outcome for outcome in outcomes if name in (outcome.kind, "all")]
        ends = [sum(row.end == end for row in rows) for end in ("recovered", "clear error", "failed")]
        counts = [sum(getattr(row, column) for row in rows) for column in _COLUMNS]
        print(f"{name:26} {len(rows):5} {ends[0]:9} {ends[1]:11} {ends[2]:6} " + " ".join(f"{count:10}" for count in counts))  # fmt: skip
    bad = [outcome for outcome in outcomes if not outcome.good]
    for outcome in bad:
        print(f"\n{outcome.kind}, run {outcome.number}: {outcome._replace(notes=())}\n" + "\n".join(outcome.notes))
    print(f"\n{len(outcomes)} runs of {len(kinds)} kinds in {elapsed_s / 60:.1f} min, {len(bad)} failed")
    return int(bool(bad))
