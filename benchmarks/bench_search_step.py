"""Time and peak memory of the search's steps against a plain implementation of the published loop.

    python -m benchmarks.bench_search_step [--space lightnas --batch 16 --side 128 --rounds 12]

Each round times one step of either loop on the same sampled operators' distribution, in turn, so that a drift of the
machine hits both. The ratio is that of medians, on one thread. A warm-up step trains every operator once: one step here, one for each
operator of a layer there. Peak memory is that of a process of its own (VmHWM: getrusage would inherit the parent's), less what its
imports took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

PLAIN, OURS = "plain", "ours"
SETTINGS = (("lightnas", 32, 64, 12), ("tiny", 4, 32, 40))
REQUIRED = {"weight": 2.0, "warm-up": 2.0, "architecture": 4.0}  # on the first setting; nowhere slower
MEMORY = 0.75


def steps_of(which, space, images, labels, execution=None):
    """{kind: step} of one loop, of the kinds in REQUIRED, on the device of the images."""
    import torch

    from lightnas_edge.nn.execution import PLAIN as USUAL

    execution = execution or USUAL

    cost = torch.rand(len(space.layers), len(space.operators), generator=torch.Generator().manual_seed(0))

    class Latency(torch.nn.Module):
        def forward(self, one_hot):
            return (one_hot * cost).sum((-1, -2)) + 1.0

    torch.manual_seed(0)
    if which == PLAIN:
        from benchmarks.published_loop import PublishedLoop

        cost = cost.to(images.device)
        loop = PublishedLoop(space, Latency(), 5.0, images.device)
        return {
            "weight": lambda: loop.weight_step(images, labels),
            "warm-up": lambda: [loop.weight_step(images, labels) for _ in space.operators],
            "architecture": lambda: loop.architecture_step(images, labels),
        }
    from lightnas_edge.nn import Supernet
    from lightnas_edge.search.steps import architecture_gradient, sample_orderings, sample_path, weight_step

    supernet = Supernet(space).to(images.device, memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-5, foreach=True)
    alpha = 1e-3 * torch.randn(len(space.layers), len(space.operators))
    alphas = torch.optim.Adam([alpha], lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    latency = Latency()

    def weights(paths):
        supernet.requires_grad_(True)
        return float(weight_step(supernet, optimiser, images, labels, paths, execution=execution).loss)

    def architecture():
        supernet.requires_grad_(False)
        alpha.grad, _, outcome = architecture_gradient(
            supernet, alpha, images, labels, [(latency, 0.01, 5.0)], tau=5.0, execution=execution
        )
        alphas.step()
        return float(outcome.loss)

    return {
        "weight": lambda: weights([sample_path(alpha)]),
        "warm-up": lambda: weights(sample_orderings(alpha)),
        "architecture": architecture,
    }


def problem(name, batch, side):
    import torch

    from lightnas_edge.space import load_space

    space = load_space(name).with_classes(100)
    return space, torch.randn(batch, 3, side, side), torch.randint(0, 100, (batch,))


def time_steps(name, batch, side, rounds):
    """{step: {loop: [seconds]}}; the first three rounds warm up (they touch most candidates once)."""
    import torch

    torch.set_num_threads(1)
    space, images, labels = problem(name, batch, side)
    loops = {which: steps_of(which, space, images, labels) for which in (PLAIN, OURS)}
    times = {step: {which: [] for which in loops} for step in REQUIRED}
    for turn in range(rounds + 3):
        for step in REQUIRED:
            for which in (PLAIN, OURS) if turn % 2 else (OURS, PLAIN):
                torch.manual_seed(turn)
                begun = time.perf_counter()
                loops[which][step]()
                if turn >= 3:
                    times[step][which].append(time.perf_counter() - begun)
    return times


def peak_memory_mb(which, name, batch, side):
    code = (
        "import json, torch; torch.set_num_threads(1)\n"
        "import benchmarks.published_loop, lightnas_edge.nn, lightnas_edge.search.steps\n"  # of both, so that neither counts
        "from benchmarks.bench_search_step import problem, steps_of\n"
        "torch.optim.SGD(torch.nn.Linear(1, 1).parameters())\n"  # imports much
        f"space, images, labels = problem({name!r}, {batch}, {side})\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024\n"
        "before = peak()\n"
        f"steps = steps_of({which!r}, space, images, labels)\n"
        "for _ in range(4): steps['weight'](); steps['architecture']()\n"
        "print(json.dumps([before, peak()]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak = json.loads(run.stdout)
    return peak - before


def measure(name, batch, side, rounds):
    """[(name, value, requirement)] for one setting."""
    found = []
    first = (name, batch, side) == SETTINGS[0][:3]
    for step, by_loop in time_steps(name, batch, side, rounds).items():
        plain, ours = (statistics.median(by_loop[which]) for which in (PLAIN, OURS))
        found.append(
            (
                f"{step} step, {name} at {side} px, batch {batch}: plain / ours",
                f"{plain / ours:.2f}x ({plain * 1e3:.0f} / {ours * 1e3:.0f} ms)",
                f">= {REQUIRED[step] if first else 1.0}x",
            )
        )
    plain, ours = (peak_memory_mb(which, name, batch, side) for which in (PLAIN, OURS))
    found.append(
        (
            f"peak memory, {name} at {side} px, batch {batch}: ours / plain",
            f"{ours / plain:.2f} ({ours:.0f} / {plain:.0f} MB)",
            f"<= {MEMORY if first else 1.0}",
        )
    )
    return found


def rows() -> list[tuple[str, str, str]]:
    """For the table of `make bench`."""
    return [row for setting in SETTINGS for row in measure(*setting)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    found = measure(arguments.space, arguments.batch, arguments.side, arguments.rounds) if arguments.space else rows()
    for name, value, requirement in found:
        print(f"{name:70s} {value:28s} {requirement}")


if __name__ == "__main__":
    main()
