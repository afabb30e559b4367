"""Memory that a journal takes on the host: `python -m benchmarks journal`, or MIB=900 for another size.

Valid journals in the agent's form: operators with 5 samples a visit, and networks with 50. Each is read in a process of its own,
which computes every latency and its error; the peak is that of the process above what it took before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.luts.large import write_large

SLOW = True
MIB = int(os.environ.get("MIB", "100"))
_LIMIT = 200 / 900  # MB of memory for an MB of the journal
_READ = """
import re, sys
import luts
from pathlib import Path

def memory_mb(name):
    return int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def use(path):
    table = luts.read(path)
    for entry in (*table.entries.values(), *table.networks.values()):
        entry.quantity("latency_ms"), entry.spread, entry.warnings
    return len(table.visits)

use(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = memory_mb("VmRSS")
visits = use(sys.argv[2])
print(visits, memory_mb("VmHWM") - before)
"""


def rows() -> list[tuple[str, str, str]]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        small = write_large(Path(folder) / "small.lut.jsonl", 1 << 20, samples=5)
        for samples in (5, 50):
            path = write_large(Path(folder) / "large.lut.jsonl", MIB << 20, samples=samples)
            visits, peak_mb = peak_of_reading(small, path)
            size_mb = path.stat().st_size / 2**20
            found.append(
                (
                    f"{size_mb:.0f} MiB, {visits} visits of {samples} samples: memory for a MiB of the journal",
                    f"{peak_mb / size_mb:.3f} MiB (peak {peak_mb:.0f} MiB)",
                    f"{_LIMIT:.3f} MiB",
                )
            )
    return found


def peak_of_reading(small: Path, path: Path) -> tuple[int, float]:
    """(visits, MiB). `small`: read before, so that code and libraries do not count."""
    ended = subprocess.run(
        [sys.executable, "-c", _READ, str(small), str(path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    visits, peak_mb = ended.stdout.split()
    return int(visits), float(peak_mb)
