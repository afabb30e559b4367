"""A small run with a network whose weights are random, batch norm included: quick to export and to verify."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import luts
from devices import Connection
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.deploy import export
from lightnas_edge.measuring import Job
from lightnas_edge.nn import Network
from lightnas_edge.space import Architecture, Space
from tests import run_folders

SPACE = Space.from_json({
    "schema": 1, "name": "small", "input_size": 16, "classes": 10, "stem": {"channels": 8, "stride": 1},
    "first": {"operator": "mbconv_k3_e1", "channels": 8},
    "operators": ["mbconv_k3_e3_se", "mbconv_k5_e3", "skip"],
    "layers": [{"channels": 12, "stride": 2}, {"channels": 12, "stride": 1}, {"channels": 16, "stride": 2}],
    "head": {"channels": 32, "features": 24},
})  # fmt: skip
FOUND = ["mbconv_k5_e3", "mbconv_k3_e3_se", "skip"]
FINGERPRINT = {"board": "invented", "backend": "onnxruntime", "precision": "fp32", "batch": 1, "threads": 1}


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load_data("digits", space=SPACE)


@pytest.fixture(autouse=True)
def digits_at_hand(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaling the digits anew takes longer than a test."""
    monkeypatch.setattr(
        export, "load_data", lambda source, **named: digits if source == "digits" else load_data(source, **named)
    )


@pytest.fixture
def run_folder(tmp_path: Path, digits: DataSet) -> Path:
    """Trained, not exported; with a predictor and a table of invented numbers."""
    run = run_folders.begin(tmp_path / "run", SPACE, digits.record, fingerprint=FINGERPRINT)
    write_table(run.folder / "lut.jsonl", [shaped.key for shaped in SPACE.shaped_operators()], 0.1)
    run_folders.find(run, Architecture.from_names(SPACE, FOUND))
    run_folders.train(run, network())
    return run.folder


def network() -> Network:
    """With batch norms that have seen something, so that folding them matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(SPACE, Architecture.from_names(SPACE, FOUND))
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var") or "norm.weight" in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval()


@pytest.fixture
def board() -> Callable[..., Any]:
    """Stands in for `measure`: everything takes as long as the test says, and ONNX Runtime computes."""

    def make(
        network_ms: float = 0.4, operator_ms: float = 0.1, *, wrong: bool = False, fails: str = "",
        fingerprint: dict[str, Any] = FINGERPRINT, rounds: int = 12,
    ) -> Callable[..., luts.Lut]:  # fmt: skip
        def measure(connection: Connection, job: Job, table: Path, *, outputs: Path, **_: Any) -> luts.Lut:
            manifest = json.loads((job.folder / "manifest.json").read_text())
            for row in manifest["evaluations"]:
                batch = manifest["batch"]
                size = SPACE.input_size
                inputs = np.fromfile(job.folder / "data" / f"{row['inputs']}.f32", "<f4").reshape(-1, 3, size, size)
                assert inputs.nbytes == row["runs"] * row["run_bytes"]
                session = onnxruntime.InferenceSession(job.folder / "models" / f"{row['model']}.onnx")
                chunks = [inputs[start : start + batch] for start in range(0, len(inputs), batch)]
                result = np.concatenate([session.run(None, {"input": chunk})[0] for chunk in chunks])
                outputs.mkdir(parents=True, exist_ok=True)
                (result[:, ::-1].copy() if wrong else result).tofile(outputs / f"{row['key']}.f32")
            return write_table(
                table, job.keys, operator_ms, network_ms, fails=fails, fingerprint=fingerprint, rounds=rounds
            )

        return measure

    return make


def write_table(
    path: Path,
    keys: list[str] | tuple[str, ...],
    operator_ms: float,
    network_ms: float = 0.0,
    *,
    fails: str = "",
    fingerprint: dict[str, Any] = FINGERPRINT,
    rounds: int = 12,
) -> luts.Lut:
    generator = np.random.default_rng(1)
    lines: list[dict[str, Any]] = [{
        "kind": "lut", "schema": 1, "created": "", "agent_version": "0", "space": "small", "space_sha256": "0" * 64, "classes": 3,
        "units": {"latency": "ms", "energy": "mJ"}, "simulated": False, "fingerprint": fingerprint, "board": {},
        "runtime": {},
        "protocol": {
            "version": 1, "rounds": 10, "samples_per_visit": 5, "seed": 0, "warmup_ms": 5.0, "min_sample_ms": 2.0,
            "timeout_s": 120.0,
        },
        "sentinels": [], "energy": {"available": False, "reason": ""},
    }]  # fmt: skip
    for round_ in range(rounds):
        for key in keys:
            count = 10 if key.startswith("net-") else 5
            whole = key.startswith("net-")
            truth = network_ms if whole else operator_ms
            error = {"code": "load", "message": fails, "remedy": "use another"} if fails and whole else None
            samples = (truth * (1 + 0.002 * generator.random(count))).tolist()
            lines.append({
                "kind": "visit", "key": key, "architecture" if whole else "operator": {}, "session": "aa",
                "round": round_, "t_s": 0.0, "repeats": 1, "warmup_ms": [], "samples_ms": [] if error else samples,
                "energy": None, "before": {}, "after": {}, "warnings": [], "error": error,
            })  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    bodies = [json.dumps(line, separators=(",", ":")).encode() for line in lines]
    path.write_bytes(b"".join(body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body) for body in bodies))
    return luts.read(path)
