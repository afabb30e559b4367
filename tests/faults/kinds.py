"""The faults: each is a script of what happens before the user runs the same command again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.faults.bench import Bench
from tests.faults.run import Kind, Run

KINDS: list[Kind] = []


def kind(
    name: str, bench: type[Bench] = Bench, remedy: Callable[[Run], tuple[str, ...]] | None = None
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Enter a script into KINDS."""

    def enter(script: Callable[[Run], None]) -> Callable[[Run], None]:
        KINDS.append(Kind(name, bench, script, remedy))
        return script

    return enter


def fresh(run: Run) -> tuple[str, ...]:
    return ("--fresh",)


def _signal_to_host(signum: int) -> Callable[[Run], None]:
    def script(run: Run) -> None:
        command = run.start()
        run.moment(command)
        command.process.send_signal(signum)
        run.end(command)

    return script


kind("host killed")(_signal_to_host(signal.SIGKILL))
kind("host: Ctrl-C")(_signal_to_host(signal.SIGINT))
kind("host: SIGTERM")(_signal_to_host(signal.SIGTERM))
kind("host: SIGHUP")(_signal_to_host(signal.SIGHUP))


@kind("host asleep")
def host_asleep(run: Run) -> None:
    command = run.start()
    run.moment(command)
    command.process.send_signal(signal.SIGSTOP)
    time.sleep(run.random.uniform(0.5, 3.0))
    command.process.send_signal(signal.SIGCONT)
    run.end(command)


def _signal_to(role: str, signum: int) -> Callable[[Run], None]:
    def script(run: Run) -> None:
        command = run.start()
        process = run.moment(command, role)
        if process is not None:
            process.send(signum)
        run.end(command)

    return script


kind("agent killed")(_signal_to("run", signal.SIGKILL))
kind("agent: SIGTERM")(_signal_to("run", signal.SIGTERM))
kind("worker killed")(_signal_to("worker", signal.SIGKILL))
