"""Memory that journals take on the host and on the board: `python -m benchmarks journal`, or MIB=900 for another size.

Valid journals in the agent's form: operators with 5 samples a visit, and networks with 50. Each is used in a process of its own, in the
ways of a command that resumes or merges; the peak is that of the process above what it took before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.notes import note
from tests.luts.large import write_large

SLOW = True
MIB = int(os.environ.get("MIB", "100"))
UNITS = 3
_LIMIT = 200 / 900  # MB of memory for an MB of the journal

READING = """
import luts
def use(path):
    table = luts.read(path)
    for entry in (*table.entries.values(), *table.networks.values()):
        entry.quantity("latency_ms"), entry.spread, entry.warnings
    return len(table.visits)
"""
RESUMING = """
import luts
from lightnas_edge.fleet.work import measured
def use(path):
    visits = luts.read(path).visits
    measured(visits, 100)
    return len(visits)
"""
MERGING = """
import luts
from pathlib import Path
def use(*paths):
    return len(luts.write_pooled([luts.read(path) for path in paths], Path(paths[0]).with_name("pooled.lut.jsonl")).visits)
"""
MENDING = """
from pathlib import Path
from devices.journal_copies import merge
def use(path, damaged):
    with open("/dev/null", "wb") as file:
        merge((Path(path), Path(damaged)), ("this", "that"), file)
    return sum(1 for _ in open(path, "rb")) - 1
"""
AGENT = """
from profiler import journal
def use(path):
    return len(journal.read(path).visits)
"""
_MEASURING = """
import re, sys
from pathlib import Path

def memory_mb(name):
    return int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

half = len(sys.argv) // 2
use(*sys.argv[1:half + 1])
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = memory_mb("VmRSS")
visits = use(*sys.argv[half + 1:])
print(visits, memory_mb("VmHWM") - before)
"""


def rows() -> list[tuple[str, str, str]]:
    found = []
    for samples in (5, 50):
        with tempfile.TemporaryDirectory() as scratch:
            small, large = (
                _journals(Path(scratch) / name, size_bytes, samples)
                for name, size_bytes in (("small", 1 << 20), ("large", MIB << 20))
            )
            for what, program, names, limit in (
                ("read as a table", READING, ["all"], _LIMIT),
                ("what a unit has measured, on resuming", RESUMING, ["all"], _LIMIT),
                (f"{UNITS} units merged", MERGING, [f"unit{number}" for number in range(UNITS)], None),
                ("two copies merged, one damaged", MENDING, ["all", "damaged"], None),
                ("the agent resumes, on the board", AGENT, ["all"], None),
            ):
                note(f"{what}, {samples} samples a visit")
                visits, peak_mib = peak(program, [small[name] for name in names], [large[name] for name in names])
                size_mib = large["all"].stat().st_size / 2**20
                found.append(
                    (
                        f"{size_mib:.0f} MiB, {visits} visits of {samples} samples: {what}",
                        f"{peak_mib / size_mib:.3f} of the journal (peak {peak_mib:.0f} MiB)",
                        "-" if limit is None else f"{limit:.3f}",
                    )
                )
    return found


def _journals(folder: Path, size_bytes: int, samples: int) -> dict[str, Path]:
    """One of this size, a copy with a damaged line, and those of several units that are as large together."""
    folder.mkdir()
    found = {"all": write_large(folder / "all.lut.jsonl", size_bytes, samples=samples)}
    found["damaged"] = Path(shutil.copy(found["all"], folder / "damaged.lut.jsonl"))
    with found["damaged"].open("r+b") as file:
        file.seek(size_bytes // 2)
        file.write(b"?")
    for number in range(UNITS):
        path = folder / f"unit{number}.lut.jsonl"
        found[f"unit{number}"] = write_large(path, size_bytes // UNITS, samples=samples, unit=number)
    return found


def peak_of_reading(small: Path, path: Path) -> tuple[int, float]:
    """(visits, MiB). `small`: read before, so that code and libraries do not count."""
    return peak(READING, [small], [path])


def peak(program: str, small: list[Path], large: list[Path]) -> tuple[int, float]:
    """(visits, MiB) of a program with a function `use` of these paths. `small`: used before, so that code and libraries do not count."""
    ended = subprocess.run(
        [sys.executable, "-c", program + _MEASURING, *map(str, small), *map(str, large)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    visits, peak_mib = ended.stdout.split()
    return int(visits), float(peak_mib)
