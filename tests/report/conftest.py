"""A run directory as the other commands leave it, with invented numbers: the board says `synthetic`."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luts
from lightnas_edge.deploy import judge
from lightnas_edge.report import build_report
from lightnas_edge.space import Architecture, Space, load_space
from lightnas_edge.space.cost import operator_cost

FOUND = [
    "mbconv_k5_e3", "mbconv_k3_e3", "mbconv_k5_e3", "skip", "mbconv_k3_e6", "mbconv_k3_e6", "mbconv_k3_e3", "skip",
]  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "tiny-0.9ms")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, only to be looked at."""
    folder = write_sample_run(tmp_path_factory.mktemp("runs") / "tiny-0.9ms")
    build_report(folder)
    return folder


@pytest.fixture
def write_run() -> Callable[..., Path]:
    return write_sample_run


def write_sample_run(
    folder: Path, *, centre_ms: float = 0.86, target_ms: float = 0.9, simulated: bool = False, epochs: int = 18
) -> Path:
    """All parts of a run of the space `tiny`."""
    space = load_space("tiny")
    architecture = Architecture.from_names(space, FOUND)
    generator = np.random.default_rng(7)
    fingerprint = {
        "board": "synthetic", "cpu": "invented for tests", "power_mode": None, "clocks": "floating",
        "backend": "onnxruntime", "backend_version": "1.32.0", "provider": "CPUExecutionProvider", "precision": "fp32",
        "batch": 1, "threads": 1, "protocol": 1, "simulated": simulated,
    }  # fmt: skip
    save(folder / "run.json", {
        "kind": "run", "schema": 1, "created": "2026-11-23T19:20:00+00:00", "version": "0.1.0",
        "space": space.to_json(),
        "targets": {"latency_ms": target_ms}, "seed": 0, "fingerprint": fingerprint,
        "data": {
            "name": "digits", "source": "digits", "classes": [str(digit) for digit in range(10)], "train_images": 1437,
            "validation_images": 360, "split": "20% of every class for validation, seed 0",
        },
        "config": {"epochs": epochs, "batch": 64, "alpha_lr": None, "confidence": 0.95},
    })  # fmt: skip
    save(folder / "architecture.json", {
        **architecture.to_json(),
        "predicted": {"latency_ms": 0.846, "upper_ms": 0.871, "confidence": 0.95, "target_ms": target_ms},
    })  # fmt: skip
    write_table(folder / "lut.jsonl", space, fingerprint, generator)
    scores = {
        "n": 20, "rmse": 0.0081, "mape": 0.0078, "bias": 0.001, "within_1": 0.7, "within_5": 1.0, "within_10": 1.0,
        "kendall_tau": 0.958, "coverage_90": 0.9, "repeatability": 0.0061,
    }  # fmt: skip
    truth = generator.uniform(0.7, 1.9, 20)
    save(folder / "predictor.json", {
        "kind": "predictor", "schema": 1, "type": "additive", "metric": "latency_ms", "batch": 1, "space": "tiny",
        "space_sha256": space.sha256, "fingerprint": fingerprint, "simulated": simulated, "parameters": {},
        "fit": {
            "method": "table as prior, Bayesian linear regression on whole networks", "networks": 20,
            "chosen": "LUT calibrated", "held_out": scores, "protocol": "5-fold over networks, seed 0",
            "comparison": [
                {"method": "LUT calibrated", "trained_on": 16, **scores},
                {"method": "LUT alone", "trained_on": 0, **scores, "rmse": 0.071, "mape": 0.058, "within_5": 0.3},
            ],
            "ledger": {
                "networks": 20, "metric": "latency_ms", "unit": "ms", "fingerprint": fingerprint, "measured": 1.3,
                "table_sum": 1.5, "blocks": 6.5, "dearer": 1, "cheaper": 19, "left_over": 0.006, "noise": 0.008,
                "causes": [
                    {"name": "offset", "mean": -0.02, "error": 0.004, "least": -0.02, "most": -0.02},
                    {"name": "overhead", "mean": -0.1834, "error": 0.01, "least": -0.21, "most": -0.15},
                    {"name": "left", "mean": 0.0034, "error": None, "least": -0.01, "most": 0.012},
                ],
                "operators": [["mbconv_k3_e3@16x16-24s2", 0.01]],
            },
            "skipped": ["MLP: needs 30 networks in every fold, has 16"],
            "points": [
                {"predicted": value * (1 + 0.008 * generator.normal()), "measured": value} for value in truth
            ],
        },
    })  # fmt: skip
    write_search(folder / "search" / "metrics.jsonl", space, architecture, target_ms, epochs, generator)
    progress = np.arange(20) / 19
    save_lines(folder / "train" / "metrics.jsonl", [
        {
            "kind": "epoch", "epoch": epoch, "train_loss": 0.55 + 1.6 * np.exp(-5 * at),
            "train_accuracy": 1 - 0.8 * np.exp(-6 * at), "validation_loss": 0.6 + 1.5 * np.exp(-4 * at),
            "validation_accuracy": 0.985 - 0.8 * np.exp(-5 * at), "best_accuracy": 0.986 - 0.8 * np.exp(-5 * at),
        }
        for epoch, at in enumerate(progress)
    ])  # fmt: skip
    save(folder / "train" / "result.json", {"kind": "train", "schema": 1, "epochs": 20})
    save(folder / "export" / "export.json", {
        "kind": "export", "schema": 1, "model": "model.onnx", "target": "any", "opset": 13, "ir_version": 7, "batch": 1,
        "sha256": "ab" * 32, "size_bytes": 1_034_221, "images": 64, "max_abs_difference": 4.3e-6, "cosine": 0.9999999,
    })  # fmt: skip
    save(folder / "verify" / "verification.json", verification(centre_ms, target_ms, fingerprint, generator))
    return folder


def verification(
    centre_ms: float, target_ms: float, fingerprint: dict[str, Any], generator: np.random.Generator
) -> dict[str, Any]:
    drift = np.exp(0.02 * generator.standard_normal(40))
    samples = [
        tuple(float(centre_ms * factor * (1 + 0.006 * abs(shift))) for shift in generator.standard_normal(5))
        for factor in drift
    ]
    samples[11] = tuple(value * 1.4 for value in samples[11])
    visits = tuple(luts.Visit("net-0", "00", index, row, {}, True) for index, row in enumerate(samples))
    entry = luts.Entry("net-0", visits, tuple(float(factor) for factor in drift / np.median(drift)))
    judgement = judge(
        entry, target_ms=target_ms, drift=luts.Ratio(1.021, (1.016, 1.026), 0.95, {"stem@3x32-16s2": 1.021})
    )
    record = judgement.to_json()
    return {
        "kind": "verification", "schema": 1, "created": "2026-11-23T19:31:00+00:00", "host": "localhost", **record,
        "measured": {**record["measured"], "samples_ms": list(entry.samples_ms)},
        "predicted": {
            "latency_ms": 0.846, "interval_ms": [0.821, 0.871], "gap": judgement.decisive.latency_ms / 0.846 - 1,
        },
        "outputs": {"images": 360, "max_abs_difference": 4.3e-6, "cosine": 0.9999998, "top1_agreement": 1.0},
        "accuracy": {"top1": 0.981, "images": 360, "pytorch_top1": 0.981}, "energy": None, "batch": 1,
        "precision": "fp32", "fingerprint": fingerprint, "simulated": fingerprint["simulated"],
        "warnings": ["net-0: unstable: spread 3.4 % of the median (limit 3 %); stop other work and verify again"],
    }  # fmt: skip


def write_table(path: Path, space: Space, fingerprint: dict[str, Any], generator: np.random.Generator) -> None:
    """A journal with 15 rounds; an operator costs 8 µs and 7 µs for every million of multiply-accumulates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [{
        "kind": "lut", "schema": 1, "created": "2026-11-23T19:00:00Z", "agent_version": "0.1.0", "space": space.name,
        "space_sha256": space.sha256, "units": {"latency": "ms", "energy": "mJ"}, "simulated": fingerprint["simulated"],
        "fingerprint": fingerprint, "board": {"memory_mb": 7850, "kernel": "synthetic"},
        "runtime": {"onnxruntime": "1.32.0"}, "sentinels": [],
        "protocol": {"version": 1, "rounds": 15, "samples_per_visit": 5, "seed": 0},
        "energy": {"available": False, "reason": "no sensor"},
    }]  # fmt: skip
    for round_ in range(15):
        drift = float(np.exp(0.03 * generator.standard_normal()))
        for shaped in space.shaped_operators():
            truth = 0.008 + 0.1 * operator_cost(shaped)[0] / 1e6
            noise = 0.01 if shaped.block != "mbconv_k3_e6" else 0.05
            samples = truth * drift * np.exp(noise * generator.standard_normal() + 0.003 * generator.standard_normal(5))
            lines.append({
                "kind": "visit", "key": shaped.key, "operator": shaped.to_json(), "session": "5e551011",
                "round": round_, "t_s": 1.0, "repeats": 4, "warmup_ms": [], "samples_ms": samples.tolist(),
                "energy": None, "before": {}, "after": {}, "warnings": [], "error": None,
            })  # fmt: skip
    bodies = [json.dumps(line, separators=(",", ":")).encode() for line in lines]
    path.write_bytes(b"".join(body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body) for body in bodies))


def write_search(
    path: Path, space: Space, found: Architecture, target_ms: float, epochs: int, generator: np.random.Generator
) -> None:
    lines: list[dict[str, Any]] = []
    layers, count = len(space.layers), len(space.operators)
    goal = found.one_hot(space)
    multiplier, step = 0.0, 0
    for epoch in range(epochs):
        warm = epoch < max(1, epochs // 9)
        weight = 0.0 if warm else (epoch / epochs) ** 1.2
        noise = generator.dirichlet(np.full(count, 12.0), size=layers)
        probabilities = weight * (0.85 * goal + 0.15 * noise) + (1 - weight) * noise
        derived = target_ms * (1.35 - 0.35 * weight**0.5) + 0.01 * generator.normal()
        for phase in ["warmup"] * 22 if warm else ["weights"] * 22 + ["architecture"] * 6:
            step += 1
            multiplier += 0.0 if warm else 0.004 * (derived / target_ms - 1)
            lines.append({
                "kind": "step", "phase": phase, "epoch": epoch, "step": step, "loss": 2.3 * np.exp(-epoch / 6) + 0.4,
                "accuracy": 1 - 0.9 * np.exp(-epoch / 5), "images": 64, "tau": 5.0 * np.exp(-0.1 * epoch),
                "lambda": multiplier,
                "sampled_ms": derived * (1 + (0.16 - 0.1 * weight) * generator.normal()), "derived_ms": derived,
                "alpha_lr": 0.001, "weight_lr": 0.1, "elapsed_s": step * 0.2,
            })  # fmt: skip
        lines.append({
            "kind": "epoch", "epoch": epoch, "phase": "warmup" if warm else "search",
            "probabilities": probabilities.tolist(), "entropy": 1.0, "derived_ms": derived, "lambda": multiplier,
            "train_loss": 2.2 * np.exp(-epoch / 6) + 0.35,
            "train_accuracy": 1 - 0.9 * np.exp(-epoch / 5),
            "validation_loss": None if warm else 2.2 * np.exp(-epoch / 6) + 0.5,
            "validation_accuracy": None if warm else 0.97 - 0.9 * np.exp(-epoch / 5),
        })  # fmt: skip
    save_lines(path, lines)


def save(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def save_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
