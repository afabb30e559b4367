"""The energy part of the agent under the Pythons of the boards: found, sampled, estimated, all from an archive."""

import json
import shutil
import subprocess
import zipapp
from pathlib import Path

import pytest

from tests.profiler.power import boards

ROOT = Path(__file__).parents[3]

CODE = """
import json, sys, time
from profiler.power import PowerSampler, Window, WindowRules, find_sensors, measure
from profiler.power import tegrastats
sys_root, trace = sys.argv[1:]
board = {"power": {"sensors": ["ina3221"]}}
sensor = find_sensors(sys_root, board).best
def run_for(seconds):
    start = time.monotonic(); time.sleep(seconds); end = time.monotonic()
    return Window(start, end), [(start, 0), (end, 10)]
with PowerSampler(trace, sys_root, board, period_s=0.02) as sampler:
    result, _ = measure(sampler, run_for, sensor.describe(), steady_s=0.4, rules=WindowRules(0.1, 0.3))
record = tegrastats.parse("RAM 1/2MB (lfb 1x4MB) GR3D_FREQ 9%@[114] VDD_IN 5mW/5mW")
print(json.dumps({"energy": result.to_json(), "gpu": record.gr3d.clocks_mhz, "python": sys.version_info[:2]}))
"""


def interpreter(version):
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")):
        return str(path)
    return shutil.which(f"python{version}")


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.10", "3.12"])
def test_power_is_measured_under_the_pythons_of_the_boards(tmp_path, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no python{version} here")
    boards.hwmon_chip(tmp_path / "sys", boards.ORIN_NX, samples=1, update_interval_ms=7)
    sources = tmp_path / "agent"
    shutil.copytree(ROOT / "profiler", sources / "profiler", ignore=shutil.ignore_patterns("__pycache__"))
    (sources / "__main__.py").write_text(CODE)
    archive = tmp_path / "agent.pyz"
    zipapp.create_archive(sources, archive)

    run = subprocess.run(
        [python, "-W", "error", str(archive), str(tmp_path / "sys"), str(tmp_path / "trace")],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["python"] == [int(part) for part in version.split(".")]
    assert result["energy"]["power_mw"] == pytest.approx(5064 * 1080 / 1000)
    assert result["energy"]["net_mj"] == pytest.approx(0.0, abs=1e-6)
