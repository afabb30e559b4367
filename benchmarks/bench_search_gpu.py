"""Steps of a search on a GPU: images a second and memory, against the plain implementation of the published loop; what compiling brings.

    python -m benchmarks search_gpu                                         ten minutes of a GPU or more
    python -m benchmarks.bench_search_gpu --parts memory --out FILE         a part of it, every time of every round
    python -m benchmarks.bench_search_gpu --show benchmarks/gpu/h100-compiled.json     what is stored

Steps as in bench_search_step, in turn, each between two waits for the GPU; the loops as a user runs them: the plain one in float32, channels
first, ours in float32 and bfloat16, channels last. cuDNN chooses its algorithms by rule, and then by trial (`cudnn.benchmark`), which the
program does not use. Memory is the most that PyTorch allocated in four steps of each kind, with the weights.
Compiled: every block of one path by itself (torch.compile), since a path of its own comes with each batch; the last row is what the
compiler needs for all blocks of the space at the rate of this path's. Hours of a search: the published schedule over the images of
ImageNet-100, if images come as fast as the GPU takes them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.bench_search_step import PLAIN, steps_of
from benchmarks.notes import note
from lightnas_edge.cli._console import print_table
from lightnas_edge.nn.execution import Execution

SLOW = True  # it needs a GPU
OURS = {"ours, float32": Execution(), "ours, bfloat16": Execution(bf16=True)}
ENTANGLED = "entangled, bfloat16"
TRAINING_IMAGES, VALIDATION_IMAGES = 126_689, 5_000  # of ImageNet-100
EPOCHS, WARMUP_EPOCHS = 90, 10  # as published
PARTS = ("memory", "by rule", "by trial", "blocks", "whole")

Times = dict[str, dict[str, list[float]]]  # {loop: {step: seconds of every round}}


def problem(name: str, batch: int, side: int, device):
    from lightnas_edge.space import load_space

    space = load_space(name).with_classes(100)
    torch.manual_seed(0)
    return (
        space, torch.randn(batch, 3, side, side, device=device), torch.randint(0, 100, (batch,), device=device),
    )  # fmt: skip


def loops_of(space, images, labels):
    """{loop: a function that sets it up and gives its steps}."""

    def entangled():
        from lightnas_edge.nn import Supernet
        from lightnas_edge.search.entangled_strategy import largest_path
        from lightnas_edge.search.steps import sample_path, weight_step

        supernet = Supernet(space, entangled=True).to(images.device, memory_format=torch.channels_last)
        pixels = images.contiguous(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-5, foreach=True)
        largest, alpha = largest_path(space), torch.zeros(len(space.layers), len(space.operators))
        execution = OURS["ours, bfloat16"]

        def step():
            paths = [largest, sample_path(alpha)]
            weight_step(supernet, optimiser, pixels, labels, paths, distil=True, execution=execution)

        return {"weight": step}

    loops = {PLAIN: lambda: steps_of(PLAIN, space, images, labels)}
    for which, execution in OURS.items():
        loops[which] = lambda execution=execution: steps_of("ours", space, images, labels, execution)
    return loops | {ENTANGLED: entangled}


def peak_memory_mb(set_up: Callable[[], dict[str, Callable[[], object]]]) -> float:
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    steps = set_up()
    for step in steps.values():
        for _ in range(4):
            step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del steps, step
    return peak / 2**20


def seconds_of(step: Callable[[], object], device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun_s


def time_loops(
    loops: dict[str, dict[str, Callable[[], object]]],
    rounds: int,
    device,
    keep: Callable[[Times], None] = lambda times: None,
) -> Times:
    """Every step of every loop in turn; three rounds go first and do not count.

    Args:
        keep: what is known so far, after every round that counts.
    """
    times: Times = {which: {step: [] for step in steps} for which, steps in loops.items()}
    for turn in range(rounds + 3):
        for which in sorted(loops, reverse=bool(turn % 2)):
            for step, run in loops[which].items():
                took_s = seconds_of(run, device)
                if turn >= 3:
                    times[which][step].append(took_s)
        if turn >= 3:
            keep(times)
    return times


@contextmanager
def algorithms_by_trial(wanted: bool):
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _OnePath(torch.nn.Module):
    """The blocks of one path, compiled one by one or together; called as the supernet."""

    def __init__(self, supernet, path, how: str) -> None:
        super().__init__()
        chosen = [candidates[index] for candidates, index in zip(supernet.layers, path, strict=True)]
        self.blocks = torch.nn.Sequential(supernet.stem, supernet.first, *chosen, supernet.head)
        for each in {"eager": (), "blocks": self.blocks, "whole": (self.blocks,)}[how]:
            each.compile(dynamic=False)

    def forward(self, x, path):
        return self.blocks(x)


def time_compiled(space, images, labels, rounds: int, which: str, how: str):
    """Seconds of steps of one path, eager and compiled, and what compiling took."""
    from lightnas_edge.nn import Supernet
    from lightnas_edge.search.steps import weight_step

    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 10_000  # one code for all blocks of a kind: PyTorch gives up after eight
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    pixels = images.contiguous(memory_format=torch.channels_last)
    blocks = [index for index, each in enumerate(space.operators) if each.kind != "skip"]
    path = [blocks[layer % len(blocks)] for layer in range(len(space.layers))]
    steps = {}
    for each in ("eager", how):
        torch.manual_seed(0)
        network = _OnePath(Supernet(space).to(images.device, memory_format=torch.channels_last), path, each)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-5, foreach=True)

        def step(network=network, optimiser=optimiser):
            return weight_step(network, optimiser, pixels, labels, [path], execution=OURS[which])

        steps[each] = {"weight": step}
    compiling_s = seconds_of(steps[how]["weight"], images.device)
    times = time_loops(steps, rounds, images.device)
    return {
        "eager_s": times["eager"]["weight"], "compiled_s": times[how]["weight"], "compiling_s": compiling_s,
        "blocks": len(path) + 3, "all_blocks": len(blocks) * len(space.layers) + 3,
    }  # fmt: skip


def measure(
    name: str = "lightnas", batch: int = 128, side: int = 224, rounds: int = 10, parts=PARTS, device: str = "cuda",
    keep: Callable[[dict], None] = lambda found: None,
):  # fmt: skip
    """Everything that was timed, and on what; times in seconds. `keep` gets what is known so far, as soon as it is known."""
    place = torch.device(device)
    space, images, labels = problem(name, batch, side, place)
    set_up = loops_of(space, images, labels)
    found = {
        "space": name, "batch": batch, "side": side, "torch": torch.__version__, "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if place.type == "cuda" else platform.processor(),
        "cudnn": torch.backends.cudnn.version(), "memory_mb": {}, "times_s": {}, "compiled": {},
    }  # fmt: skip
    for which, loop in set_up.items() if "memory" in parts and place.type == "cuda" else ():
        note(f"memory of {which} ...")
        found["memory_mb"][which] = peak_memory_mb(loop)
        keep(found)
    for how in ("by rule", "by trial"):
        if how in parts:
            note(f"steps, algorithms {how} ...")
            with algorithms_by_trial(how == "by trial"):
                loops = {which: loop() for which, loop in set_up.items()}
                time_loops(
                    loops, rounds, place, lambda times, how=how: keep(_with(found["times_s"], how, times, found))
                )
                del loops
    for how in ("blocks", "whole"):
        for which in OURS if how in parts else ():
            note(f"compiling {how}, {which} ...")
            compiled = time_compiled(space, images, labels, rounds, which, how)
            keep(_with(found["compiled"], f"{which}, {how}", compiled, found))
    return found


def _with(of: dict, key: str, value, found: dict) -> dict:
    of[key] = value
    return found


def search_hours(seconds: dict[str, float], batch: int) -> float:
    """Of the published schedule, from seconds a step of each kind."""
    weight_steps, architecture_steps = TRAINING_IMAGES // batch, VALIDATION_IMAGES // batch
    warmup = WARMUP_EPOCHS * weight_steps * seconds["warm-up"]
    rest = (EPOCHS - WARMUP_EPOCHS) * (weight_steps * seconds["weight"] + architecture_steps * seconds["architecture"])
    return (warmup + rest) / 3600


def table(found) -> list[tuple[str, str, str]]:
    batch, rows = found["batch"], []
    for how, times in found["times_s"].items():
        medians = {
            which: {step: statistics.median(each) for step, each in steps.items()} for which, steps in times.items()
        }
        for which, steps in medians.items():
            for step, median_s in steps.items():
                ratio = f"; plain / this {medians[PLAIN][step] / median_s:.2f}" if which in OURS else ""
                spread_ms = 1e3 * (max(times[which][step]) - min(times[which][step]))
                rows.append((
                    f"{step} step, {which}, algorithms {how}",
                    f"{batch / median_s:.0f} images/s ({1e3 * median_s:.1f} ms, range {spread_ms:.1f}){ratio}", "",
                ))  # fmt: skip
            if "architecture" in steps:
                rows.append((
                    f"published schedule, ImageNet-100, {which}, algorithms {how}", f"{search_hours(steps, batch):.2f} GPU-hours", "",
                ))  # fmt: skip
    rows += [(f"memory, {which}", f"{each:.0f} MiB", "") for which, each in found["memory_mb"].items()]
    for which, each in found["compiled"].items():
        eager_s, compiled_s = statistics.median(each["eager_s"]), statistics.median(each["compiled_s"])
        whole_s = each["compiling_s"] / each["blocks"] * each["all_blocks"]
        rows.append((
            f"weight step of one path, {which}: eager / compiled",
            f"{eager_s / compiled_s:.2f} ({batch / eager_s:.0f} and {batch / compiled_s:.0f} images/s); compiling {each['compiling_s']:.0f} s "
            f"for {each['blocks']} blocks, {whole_s:.0f} s for all {each['all_blocks']}", "",
        ))  # fmt: skip
    return rows


def rows():
    if not torch.cuda.is_available():
        return [("steps of a search on a GPU", "not available: no GPU", "")]
    return table(measure())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="lightnas", metavar="NAME")
    parser.add_argument("--batch", type=int, default=128, metavar="IMAGES")
    parser.add_argument("--side", type=int, default=224, metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--device", default="cuda", metavar="NAME", help="cpu: only to try this program")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", metavar="FILE", help="every time of every round, JSON; written as it comes")
    parser.add_argument("--show", metavar="FILE", help="the table of such a file; nothing is run")
    options = parser.parse_args()
    if options.show:
        print_table(["", "measured", ""], [list(row) for row in table(json.loads(Path(options.show).read_text()))])
        return 0
    out = Path(options.out) if options.out else None

    def keep(found) -> None:
        if out is not None:
            out.write_text(json.dumps(found), encoding="utf-8")

    found = measure(options.space, options.batch, options.side, options.rounds, options.parts, options.device, keep)
    print_table(["", "measured", ""], [list(row) for row in table(found)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
