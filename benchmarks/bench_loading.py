"""Images per second and core, of this loader and of torchvision's, from files of ImageNet's size.

    python -m benchmarks loading
    git worktree add ../earlier COMMIT && python -m benchmarks.bench_loading --against ../earlier

Processor time, since other programs run on most machines; every round times all of them one after the other, and a ratio is the median of
the rounds' ratios, with the range of their middle 80 %. The images are crops of the two photographs that come with scikit-learn:
32 of 500 x 333 to 500 x 400 pixels, 84 KB each, and six that were enlarged to 12 megapixels.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.notes import note
from lightnas_edge.cli._console import print_table

ROOT = Path(__file__).parents[1]
ROUNDS = 11
SIZES = ((500, 375), (500, 333), (375, 500), (500, 400))
COUNT, COUNT_LARGE = 32, 6
LARGE = (4000, 3000)
_USUAL = ("train", "train-pillow", "val", "large", "copies", "workers")
_TORCHVISION = ("torchvision-train", "torchvision-val")


class _Process:
    """Times of images loaded in another process, with a package from a folder of one's choice."""

    def __init__(self, root: Path, images: Path) -> None:
        command, environment = _program(root, images)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._process.communicate()

    def time_s(self, kind: str, turn: int) -> tuple[float, float]:
        """(processor, wall) of an image, each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind} {turn}\n")
        self._process.stdin.flush()
        cpu_s, wall_s = map(float, self._process.stdout.readline().split())
        return cpu_s, wall_s


def _program(root: Path, *arguments: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment of `loading.py` with the package from a folder."""
    command = [sys.executable, str(ROOT / "benchmarks" / "loading.py"), *map(str, arguments)]
    return command, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{ROOT}"}


def rows() -> list[tuple[str, str, str]]:
    torchvision = _TORCHVISION if importlib.util.find_spec("torchvision") else ()
    with tempfile.TemporaryDirectory() as scratch:
        _write_images(Path(scratch))
        with _Process(ROOT, Path(scratch)) as ours, _Process(ROOT, Path(scratch)) as theirs:
            times_s = _times_s([(ours, kind, kind) for kind in _USUAL] + [(theirs, kind, kind) for kind in torchvision])
    cpu_s = {kind: each[:, 0] for kind, each in times_s.items()}
    installed = "" if importlib.util.find_spec("simplejpeg") else " (not installed: both by Pillow)"
    cores = len(os.sched_getaffinity(0))
    found = [
        ("training, 224 px: images per second and core", _rate(cpu_s["train"]), ""),
        (f"  time with simplejpeg / without{installed}", _ratio(cpu_s["train"], cpu_s["train-pillow"]), ""),
        ("validation, 224 px: images per second and core", _rate(cpu_s["val"]), ""),
        ("training, 12 megapixels: images per second and core", _rate(cpu_s["large"]), ""),
        ("  time with --image-copies / without", _ratio(cpu_s["copies"], cpu_s["large"]), "below 0.5"),
        (f"training, processes: {cores}; images per second (wall time)", _rate(times_s["workers"][:, 1]), ""),
        ("  of that in the process that trains: ms per image", f"{1e3 * np.median(cpu_s['workers']):.2f}", ""),
    ]
    if not torchvision:
        return [*found, ("time / torchvision's", "not available: torchvision is not installed", "")]
    return [
        *found,
        ("training: time / torchvision's", _ratio(cpu_s["train"], cpu_s["torchvision-train"]), "<= 0.5"),
        ("validation: time / torchvision's", _ratio(cpu_s["val"], cpu_s["torchvision-val"]), "<= 1"),
    ]


def compare(earlier: Path) -> list[tuple[str, str, str]]:
    """This loader beside that of another checkout."""
    kinds = ("train", "train-pillow", "val")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_images(folder)
        with _Process(ROOT, folder) as ours, _Process(earlier.resolve(), folder) as theirs:
            times_s = _times_s(
                [(ours, kind, kind) for kind in kinds]
                + [(theirs, kind, f"earlier {kind}") for kind in ("train", "val")]
            )
        apart = np.abs(_pixels(ROOT, folder) - _pixels(earlier.resolve(), folder))
    cpu_s = {kind: each[:, 0] for kind, each in times_s.items()}
    return [
        ("training: time / earlier", _ratio(cpu_s["train"], cpu_s["earlier train"]), "<= 0.5"),
        ("  without simplejpeg", _ratio(cpu_s["train-pillow"], cpu_s["earlier train"]), ""),
        ("validation: time / earlier", _ratio(cpu_s["val"], cpu_s["earlier val"]), ""),
        ("training: pixels apart, of 255: mean (95 of 100 at most)", f"{apart.mean():.2f} ({np.quantile(apart, 0.95):.0f})", ""),
    ]  # fmt: skip


def _pixels(root: Path, images: Path) -> np.ndarray:
    """(N, 224, 224, 3) integers."""
    file = images / "pixels.npy"
    command, environment = _program(root, images, file)
    subprocess.run(command, env=environment, check=True)
    return np.load(file).astype(np.int16)


def _times_s(what: Sequence[tuple[_Process, str, str]]) -> dict[str, np.ndarray]:
    """Name -> (rounds, 2): processor and wall time of an image, from rounds in which the order changes."""
    for process, kind, _ in what:  # imports, copies, workers
        process.time_s(kind, 0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for _, _, name in what}
    for turn in range(ROUNDS):
        first = turn % len(what)
        for process, kind, name in (*what[first:], *what[:first]):
            found[name].append(process.time_s(kind, turn))
    for name, times in found.items():
        note(f"{name}: {1e3 * np.median(np.array(times)[:, 0]):.2f} ms of processor time for an image")
    return {name: np.array(times) for name, times in found.items()}


def _rate(times_s: np.ndarray) -> str:
    slow, middle, fast = 1 / np.quantile(times_s, (0.9, 0.5, 0.1))
    return f"{middle:.0f} ({slow:.0f} to {fast:.0f})"


def _ratio(times_s: np.ndarray, others_s: np.ndarray) -> str:
    low, middle, high = np.quantile(times_s / others_s, (0.1, 0.5, 0.9))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _write_images(folder: Path) -> None:
    """`usual/CLASS/*.jpg` and `large/CLASS/*.jpg`."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    generator = np.random.default_rng(0)
    for number in range(COUNT + COUNT_LARGE):
        usual = number < COUNT
        photograph, (width, height) = photographs[number % 2], SIZES[number // 2 % len(SIZES)] if usual else LARGE
        scale = generator.uniform(0.85, 1) * min(photograph.width / width, photograph.height / height)
        left = generator.uniform(0, photograph.width - width * scale)
        top = generator.uniform(0, photograph.height - height * scale)
        box = (left, top, left + width * scale, top + height * scale)
        image = photograph.resize((width, height), Image.Resampling.LANCZOS, box=box)
        place = folder / ("usual" if usual else "large") / str(number % 2) / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place, quality=96 if usual else 90)


def main() -> None:
    parser = argparse.ArgumentParser(description="Loading beside that of another checkout.")
    parser.add_argument("--against", type=Path, metavar="FOLDER", required=True)
    print_table(["loading", "measured", "target"], [list(row) for row in compare(parser.parse_args().against)])


if __name__ == "__main__":
    main()
