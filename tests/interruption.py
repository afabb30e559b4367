"""A real Ctrl-C in a real process, at a chosen call of a chosen function."""

import signal
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]

PROGRAM = """
import functools, sys
import torch
torch.set_num_threads({threads})
{setup}
calls = 0

def counted(function):
    @functools.wraps(function)
    def call(*arguments, **more):
        global calls
        result = function(*arguments, **more)
        calls += 1
        if calls == {at}:
            print("reached", flush=True)
            sys.stdin.readline()  # Ctrl-C comes while this waits
        return result
    return call

{owner}.{name} = counted({owner}.{name})
try:
    {run}
except KeyboardInterrupt:
    print("interrupted after", calls, flush=True)
"""


def interrupt(setup, run, owner, name, at):
    """Run a program and send SIGINT after the `at`-th call of `owner.name`; returns how many calls there were in all."""
    code = PROGRAM.format(threads=torch.get_num_threads(), setup=setup, run=run, owner=owner, name=name, at=at)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "reached\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=300)  # it also closes stdin: a program that ignores the signal runs on
    assert out.startswith("interrupted after "), out
    return int(out.split()[-1])
