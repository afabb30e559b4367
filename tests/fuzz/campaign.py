"""Damaged files for every reader: `make fuzz`. No content may end in anything but an error of the program's own.

The number of an input and the seed decide its content: a failure is repeated by `--target NAME --first NUMBER --inputs 1`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tests.fuzz.target import Target
from tests.fuzz.targets import FAMILY, targets

_CHUNK = 200  # inputs of one target that a process reads at a time
_LONGEST_S = 30  # for one input
_MOST_FAILURES = 3  # shown for each target


class Failure(NamedTuple):
    number: int
    text: str
    content: bytes


class Outcome(NamedTuple):
    target: str
    read: int
    refused: int
    failures: list[Failure]
    seconds: float


class _HangsError(BaseException):
    """No reader may catch it."""


_targets: dict[str, Target] = {}  # of this process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="in all (default: 1000000)")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="of the first input (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", metavar="NAME", help="default: all")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        _start(scratch)
        shares = {
            name: each.share
            for name, each in _targets.items()
            if arguments.target in (None, [name]) or name in arguments.target
        }
        if not shares:
            parser.error(f"no such target; there are: {', '.join(_targets)}")
        jobs = [
            (name, arguments.seed, number, min(_CHUNK, last - number))
            for name, share in shares.items()
            for first, last in [
                (arguments.first, arguments.first + -(-arguments.inputs * share // sum(shares.values())))
            ]
            for number in range(first, last, _CHUNK)
        ]
        random.Random(0).shuffle(jobs)  # slow and fast readers in turn, so that the estimate of the end is right
        outcomes: dict[str, Outcome] = {}
        context = multiprocessing.get_context("spawn")
        with context.Pool(arguments.processes, _start_quietly, (scratch,)) as pool:
            start = time.monotonic()
            try:
                for done, found in enumerate(pool.imap_unordered(_read_chunk, jobs), start=1):
                    _add(outcomes, found)
                    for failure in found.failures:
                        print(f"failed: {found.target}, input {failure.number}", file=sys.stderr)
                    if done % 50 == 0:
                        left_s = (time.monotonic() - start) / done * (len(jobs) - done)
                        print(f"{done} of {len(jobs)} chunks, about {left_s / 60:.0f} min left", file=sys.stderr)
            except KeyboardInterrupt:
                print("interrupted; the inputs so far:", file=sys.stderr)
    return _report(outcomes)


def _start(scratch: str) -> None:
    """Of a process: its own folder and targets."""
    logging.disable(logging.CRITICAL)
    _targets.update(targets(Path(tempfile.mkdtemp(dir=scratch))))


def _start_quietly(scratch: str) -> None:
    """Of a process that reads: libtiff writes to stderr by itself, and Ctrl-C is for the process that reports."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _start(scratch)


def _read_chunk(job: tuple[str, int, int, int]) -> Outcome:
    name, seed, first, count = job
    target, read, refused, failures = _targets[name], 0, 0, []
    start = time.monotonic()
    for number in range(first, first + count):
        content = target.damaged(random.Random(f"{name} {seed} {number}"))
        try:
            with _limited():
                target.read(content)
            read += 1
        except FAMILY as error:
            if str(error):
                refused += 1
            else:
                failures.append(Failure(number, "an error without a message", content))
        except (Exception, _HangsError):
            failures.append(Failure(number, traceback.format_exc(limit=-3), content))
    return Outcome(name, read, refused, failures, time.monotonic() - start)


@contextmanager
def _limited() -> Iterator[None]:
    """Raises _HangsError in the block after a while."""

    def hangs(signum: int, frame: FrameType | None) -> None:
        raise _HangsError(f"still reads after {_LONGEST_S} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)


def _add(outcomes: dict[str, Outcome], found: Outcome) -> None:
    before = outcomes.get(found.target, Outcome(found.target, 0, 0, [], 0.0))
    outcomes[found.target] = Outcome(
        found.target, before.read + found.read, before.refused + found.refused, before.failures + found.failures,
        before.seconds + found.seconds,
    )  # fmt: skip


def _report(outcomes: dict[str, Outcome]) -> int:
    print(f"{'target':24} {'inputs':>8} {'read':>8} {'refused':>8} {'failed':>7} {'us/input':>9}")
    failed = total = 0
    for found in sorted(outcomes.values()):
        inputs = found.read + found.refused + len(found.failures)
        total, failed = total + inputs, failed + len(found.failures)
        print(
            f"{found.target:24} {inputs:8} {found.read:8} {found.refused:8} {len(found.failures):7} "
            f"{1e6 * found.seconds / inputs:9.0f}"
        )
    for found in sorted(outcomes.values()):
        for failure in found.failures[:_MOST_FAILURES]:
            print(f"\n{found.target}, input {failure.number}: {failure.content[:200]!r}\n{failure.text}")
    print(f"\n{total} inputs, {failed} failed")
    return int(failed > 0)
