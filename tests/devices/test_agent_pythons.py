"""The agent under the Pythons of the boards; under 3.6, as on JetPack 4, a whole job with ONNX Runtime 1.10."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lightnas_edge
import profiler
from lightnas_edge.graph import Arithmetic, model_bytes, operator_model
from lightnas_edge.space import load_space

PINNED = ["onnxruntime==1.10.0", "numpy==1.19.5"]


def interpreter(version):
    """A bare Python of this version; pyenv leaves launchers on the path that only end with an error."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    for candidate in [*found, *([Path(on_path)] if on_path else [])]:
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"no Python {version}: neither in ~/.pyenv/versions nor on the path")


@pytest.fixture(scope="module", params=["3.6", "3.8", "3.10", "3.12"])
def board_python(request):
    """The Pythons of JetPack 4, 5, 6 and what comes next."""
    return interpreter(request.param)


@pytest.fixture(scope="module")
def python36_with_runtime(pytestconfig):
    """A Python 3.6 with ONNX Runtime, made once in .venv-agent-py36."""
    folder = pytestconfig.rootpath / ".venv-agent-py36"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or ready.read_text() != " ".join(PINNED):
        shutil.rmtree(folder, ignore_errors=True)
        for argv in (
            [interpreter("3.6"), "-m", "venv", folder],
            [python, "-m", "pip", "install", "--quiet", "pip==21.3.1"],  # the last that runs on 3.6
            [python, "-m", "pip", "install", "--quiet", *PINNED],
        ):
            ended = subprocess.run(argv, capture_output=True, text=True, check=False)
            if ended.returncode != 0:
                pytest.skip(f"no ONNX Runtime for Python 3.6: {ended.stderr.strip()[-300:]}")
        ready.write_text(" ".join(PINNED))
    return python


def run(*argv):
    ended = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


def test_every_module_compiles(board_python, pytestconfig, tmp_path):
    shutil.copytree(pytestconfig.rootpath / "profiler", tmp_path / "profiler")

    code, output, _ = run(board_python, "-m", "compileall", "-q", tmp_path / "profiler")

    assert (code, output) == (0, "")


def test_it_says_its_version(board_python, archive):
    code, output, _ = run(board_python, "-W", "error", archive, "version")

    assert code == 0
    assert board_python.name == "python" + json.loads(output)["python"].rpartition(".")[0]


def test_a_missing_runtime_is_reported_with_how_to_get_it(board_python, archive, tmp_path):
    # -S: without site-packages, as on a bare board
    code, output, _ = run(board_python, "-S", archive, "probe")

    answer = json.loads(output)
    assert code == 0
    assert answer["board"]["name"] == "generic-linux"
    assert answer["runtime"] is None
    assert "No module named" in answer["error"]["message"]
    assert f"{board_python} -m pip install onnxruntime" in answer["error"]["remedy"]


def test_a_whole_job_runs(python36_with_runtime, archive, write_job, tools, tmp_path):
    job = write_job()
    agent = tools.Agent(archive, tmp_path / "home", python36_with_runtime)

    code, answer, _ = agent.run(job)

    assert (code, answer["state"]) == (0, "done")
    header, *visits = tools.lines(job / "journal.jsonl")
    assert header["fingerprint"]["backend_version"] == "1.10.0"
    assert header["runtime"]["python"].startswith("3.6.")
    assert [visit["error"] for visit in visits] == [None] * 4


def test_a_model_file_is_timed_under_load_evaluated_and_profiled(
    python36_with_runtime, archive, write_job, tools, tmp_path
):
    job = write_job(
        {"a": write_job.scale_model(2, (1, 2**18))}, subject="model_file", inputs=np.ones((1, 2**18)), sustained_s=0.5,
        layer_profiles=["a"], purpose="model", space=None, space_sha256=None, classes=None, batch=None,
    )  # fmt: skip

    code, answer, _ = tools.Agent(archive, tmp_path / "home", python36_with_runtime).run(job)

    assert (code, answer["state"]) == (0, "done")
    phases = [(visit["phase"], visit["repeats"], visit["error"]) for visit in tools.visits(job)]
    assert phases == [("sustained", 1, None), ("rounds", 1, None), ("rounds", 1, None)]
    np.testing.assert_array_equal(np.fromfile(job / "outputs" / "a.f32", "<f4"), np.full(2**18, 2.0))
    profile = json.loads((job / "outputs" / "a.layers.json").read_text())
    assert profile["layers"] and all(min(layer["times_ms"]) > 0 for layer in profile["layers"])


def test_what_ran_in_8_bits_and_what_fell_back_is_read_from_the_old_runtime_too(
    python36_with_runtime, archive, write_job, tools, tmp_path
):
    """ONNX Runtime 1.10 has no 8-bit kernel for a linear layer: those of the head run in float32."""
    space = load_space("tiny")
    models = {
        name: model_bytes(operator_model(shaped, arithmetic=Arithmetic("int8", "ort")))
        for name, shaped in (("stem", space.stem), ("head", space.head))
    }

    code, _, _ = tools.Agent(archive, tmp_path / "home", python36_with_runtime).run(write_job(models, precision="int8"))

    found = {
        visit["key"]: (visit["ran_in"], visit["fell_back"])
        for visit in tools.visits(tmp_path / "job")
        if visit["ran_in"]
    }
    assert code == 0
    assert found["stem"] == ({"int8": 1}, [])
    assert found["head"] == ({"int8": 1, "fp32": 2}, ["operator.linear", "operator.classifier"])


def test_the_agent_has_the_version_of_the_product():
    assert lightnas_edge.__version__ == profiler.AGENT_VERSION


SYSTEM_PYTHON = Path("/usr/bin/python3")
MANAGED = sorted(Path("/usr/lib").glob("python3*/EXTERNALLY-MANAGED"))


@pytest.mark.skipif(
    not (SYSTEM_PYTHON.exists() and MANAGED), reason="no Python here that its system keeps pip away from"
)
def test_where_pip_is_kept_away_a_virtual_environment_is_advised(archive, tmp_path):
    _, output, _ = run(SYSTEM_PYTHON, "-S", archive, "probe")

    remedy = json.loads(output)["error"]["remedy"]
    assert f"{SYSTEM_PYTHON} -m venv ~/lightnas-agent" in remedy and "boards.toml" in remedy
