"""Tiny real jobs: ONNX models of a few kilobytes, run by the real agent from its real archive."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import devices
from devices import build_agent_archive

PROTOCOL = {
    "version": 1,
    "seed": 0,
    "rounds": 2,
    "samples_per_visit": 2,
    "warmup_ms": 0.5,
    "min_sample_ms": 0.5,
    "timeout_s": 60.0,
    "inferences_per_visit": 10,
    "round_s": 0.0,
    "sustained_s": 0.0,
}


def _model(nodes, initializers, shape):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def scale_model(factor, shape=(1, 8)):
    """y = factor * x"""
    return _model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [numpy_helper.from_array(np.float32(factor), "factor")],
        shape,
    )


def endless_model(shape=(1, 8)):
    """A loop of 2**60 turns: valid, and never done."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Mul", ["v_in", "one"], ["v_out"]), helper.make_node("Identity", ["go_in"], ["go_out"])],
        "body",
        [
            info("turn", TensorProto.INT64, []),
            info("go_in", TensorProto.BOOL, []),
            info("v_in", TensorProto.FLOAT, shape),
        ],
        [info("go_out", TensorProto.BOOL, []), info("v_out", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    return _model(
        [helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)],
        [numpy_helper.from_array(np.int64(2**60), "turns"), numpy_helper.from_array(np.bool_(True), "go")],
        shape,
    )


class JobWriter:
    """Writes job directories."""

    scale_model = staticmethod(scale_model)
    endless_model = staticmethod(endless_model)

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, models=None, *, inputs=None, name="job", subject="operator", **changes):
        """A job directory over {key: ONNX bytes}; `inputs` (N, ...) are evaluated with the first model, a batch a run."""
        folder = self.folder / name
        (folder / "models").mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        if models is None:
            models = {"a": scale_model(2), "b": scale_model(3)}
        protocol = PROTOCOL | {field: changes.pop(field) for field in list(changes) if field in PROTOCOL}
        rows = []
        for key, content in models.items():
            digest = hashlib.sha256(content).hexdigest()
            (folder / "models" / f"{digest}.onnx").write_bytes(content)
            rows.append({"key": key, "model": digest, subject: {"key": key, "block": key}})
        evaluations = []
        if inputs is not None:
            content = inputs.astype("<f4").tobytes()
            digest = hashlib.sha256(content).hexdigest()
            (folder / "data" / f"{digest}.f32").write_bytes(content)
            first = {field: rows[0][field] for field in ("key", "model")}
            runs = len(inputs) // (changes.get("batch") or 1)
            evaluations = [{**first, "inputs": digest, "runs": runs, "run_bytes": len(content) // runs}]
        manifest = {
            "kind": "job",
            "schema": 1,
            "job": "00112233445566ff",
            "purpose": "profile",
            "space": "tiny",
            "space_sha256": "5" * 64,
            "classes": 10,
            "backend": "onnxruntime",
            "precision": "fp32",
            "batch": 1,
            "threads": 1,
            "protocol": protocol,
            "sentinels": [],
            "measurements": rows,
            "evaluations": evaluations,
        } | changes
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder


class Agent:
    """Runs the agent's archive on job directories, with a home of its own."""

    def __init__(self, archive, home, python=sys.executable):
        self.archive, self.home, self.python = archive, home, python

    def argv(self, *arguments):
        return [str(self.python), str(self.archive), *map(str, arguments)]

    def start(self, job, **options):
        """A running agent; its log and output are pipes."""
        return subprocess.Popen(
            self.argv("run", "--job", job, "--home", self.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def run(self, job, **options):
        """(exit code, its JSON answer, its log)"""
        with self.start(job, **options) as process:
            try:
                output, log = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                raise
        return process.returncode, json.loads(output), log.decode()


def lines(journal):
    """The records of a journal; every line must be whole."""
    content = Path(journal).read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def visits(job):
    return [record for record in lines(Path(job) / "journal.jsonl") if record["kind"] == "visit"]


def wait_for(condition, what, limit_s=60):
    """The first true value of `condition()`; no test depends on how long it takes."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")


def line_count(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    return build_agent_archive(tmp_path_factory.mktemp("agent") / "agent.pyz")


@pytest.fixture
def agent(archive, tmp_path):
    return Agent(archive, tmp_path / "agent-home")


@pytest.fixture
def write_job(tmp_path):
    return JobWriter(tmp_path)


@pytest.fixture
def tools():
    """Helpers for reading what the agent wrote."""
    return ToolBox


class ToolBox:
    Agent = Agent
    line_count = staticmethod(line_count)
    lines = staticmethod(lines)
    visits = staticmethod(visits)
    wait_for = staticmethod(wait_for)


@pytest.fixture
def connection(tmp_path, monkeypatch):
    """This machine as a board, with a home of its own; agents that still run there are ended."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "board"))
    yield devices.connect("localhost")
    for status in (tmp_path / "board" / "jobs").glob("*/status.json"):
        pid = json.loads(status.read_text())["pid"]
        with contextlib.suppress(OSError):
            if "agent" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
