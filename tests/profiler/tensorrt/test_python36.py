"""The backends under the Python of JetPack 4: their tests, run by a real Python 3.6 with ONNX Runtime 1.10."""

import shutil
import subprocess

import pytest

from tests.devices.test_agent_pythons import interpreter

PINNED = ["numpy==1.19.5", "onnx==1.11.0", "onnxruntime==1.10.0", "pytest==7.0.1"]
TESTS = ["tests/profiler/tensorrt/test_backend.py", "tests/profiler/test_onnxruntime_backend.py"]


@pytest.fixture(scope="module")
def python36(pytestconfig):
    """A Python 3.6 with what the stand-in needs, made once in .venv-tensorrt-py36."""
    folder = pytestconfig.rootpath / ".venv-tensorrt-py36"
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
                pytest.skip(f"no {', '.join(PINNED)} for Python 3.6: {ended.stderr.strip()[-300:]}")
        ready.write_text(" ".join(PINNED))
    return python


@pytest.mark.parametrize("path", TESTS)  # one by one: together, the folder tensorrt would be importable
def test_the_backends_tests_pass_under_python_3_6(python36, pytestconfig, path):
    ended = subprocess.run(
        [python36, "-B", "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", pytestconfig.rootpath,
         "-p", "no:cacheprovider", path],
        cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=200,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    assert " passed" in ended.stdout
