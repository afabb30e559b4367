"""A run directory as the other commands leave it, with invented numbers: the board says `synthetic`."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luts
from lightnas_edge.deploy import evidence as parts
from lightnas_edge.deploy.judge import Evidence, Predicted
from lightnas_edge.files import sha256_of, sha256_of_file, write_atomic
from lightnas_edge.nn import Network
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.records.deployment import (
    AccuracyRecord,
    Agreement,
    ExportRecord,
    LatencyEstimate,
)
from lightnas_edge.records.metrics import BudgetProgress, SearchEpoch, SearchStep, TrainingEpoch
from lightnas_edge.records.predictor import (
    Calibration,
    FitRecord,
    HeldOutPoint,
    MethodScore,
    ResidualComponent,
    ResidualDecomposition,
    Scores,
)
from lightnas_edge.records.run import CandidateRecord, ChoiceRecord, MetricPrediction, PredictedRecord, SupernetScore
from lightnas_edge.report import build_report
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space, load_space
from lightnas_edge.space.cost import operator_cost
from tests import run_folders

SPACE = load_space("tiny")
FOUND = Architecture.from_names(SPACE, [
    "mbconv_k5_e3", "mbconv_k3_e3", "mbconv_k5_e3", "skip", "mbconv_k3_e6", "mbconv_k3_e6", "mbconv_k3_e3", "skip",
])  # fmt: skip
DATA = run_folders.data_record(
    tuple(str(digit) for digit in range(10)), name="digits", source="digits", train_images=1437, validation_images=360
)
FINGERPRINT: dict[str, Any] = {
    "board": "synthetic", "cpu": "invented for tests", "power_mode": None, "clocks": "floating",
    "backend": "onnxruntime", "backend_version": "1.32.0", "provider": "CPUExecutionProvider", "precision": "fp32",
    "batch": 1, "threads": 1, "protocol": 1,
}  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "tiny-0.9ms")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, for tests that only read it."""
    folder = write_sample_run(tmp_path_factory.mktemp("runs") / "tiny-0.9ms")
    build_report(folder)
    return folder


@pytest.fixture
def write_run() -> Callable[..., Path]:
    return write_sample_run


def write_sample_run(
    folder: Path, *, centre_ms: float = 0.86, target_ms: float = 0.9, simulated: bool = False, epochs: int = 18,
    seed: int = 0,
) -> Path:  # fmt: skip
    """All parts of a run of the space `tiny`.

    Args:
        seed: of the question and of the weights.
    """
    generator = np.random.default_rng(7)
    fingerprint = {**FINGERPRINT, "simulated": simulated}
    config = {"epochs": epochs, "batch": 64, "alpha_lr": None, "confidence": 0.95}
    run = run_folders.begin(
        folder, SPACE, DATA, targets={"latency_ms": target_ms}, fingerprint=fingerprint, config=config, seed=seed
    )
    write_table(run.folder / "lut.jsonl", SPACE, fingerprint, generator)
    write_predictor(run, generator)
    latency = MetricPrediction(
        value=0.846, upper=0.871, target=target_ms, violation=0.846 / target_ms - 1, multiplier=0.12
    )
    predicted = PredictedRecord(
        confidence=0.95, simulated=simulated, metrics={"latency_ms": latency}, binding="latency_ms"
    )
    other = CandidateRecord(
        operators=Architecture.random(SPACE, generator).names, metrics={"latency_ms": 0.8},
        supernet=SupernetScore(loss=0.5123, accuracy=0.87),
    )  # fmt: skip
    choice = ChoiceRecord(
        budget="0.9ms", exact=True, top_scored=other.operators, supernet=SupernetScore(loss=0.4987, accuracy=0.88),
        others=(other,),
    )  # fmt: skip
    run.save_found(FOUND, predicted, choice)
    write_search(run.search_folder / "metrics.jsonl", target_ms, epochs, generator)
    write_training(run, seed)
    write_export(run)
    write_verification(run, centre_ms, target_ms, generator)
    return folder


def write_predictor(run: Run, generator: np.random.Generator) -> None:
    """The table as predictor, with an invented fit."""
    scores = Scores(
        n=20, rmse=0.0081, mape=0.0078, bias=0.001, within_1=0.7, within_5=1.0, within_10=1.0, kendall_tau=0.958,
        coverage_90=0.9, extrapolated=0.0, coverage_90_in_domain=0.9, repeatability=0.0061,
    )  # fmt: skip
    components = (
        ResidualComponent(name="fixed_overhead", mean=-0.02, std=0.004, lowest=-0.02, highest=-0.02),
        ResidualComponent(name="block_overhead", mean=-0.1834, std=0.01, lowest=-0.21, highest=-0.15),
        ResidualComponent(name="unexplained", mean=0.0034, std=None, lowest=-0.01, highest=0.012),
    )
    fit = FitRecord(
        method="table as prior, Bayesian linear regression on whole networks", networks=20, chosen="LUT calibrated",
        calibration=Calibration(std_factor=1.0, degrees_of_freedom=19.0), held_out=scores,
        protocol="5-fold over networks, seed 0",
        comparison=(
            MethodScore(method="LUT calibrated", trained_on=16, scores=scores),
            MethodScore(
                method="LUT alone", trained_on=0,
                scores=scores.model_copy(update={"rmse": 0.071, "mape": 0.058, "within_5": 0.3}),
            ),
        ),
        residuals=ResidualDecomposition(
            networks=20, metric="latency_ms", unit="ms", fingerprint=run.record.fingerprint, measured=1.3,
            table_sum=1.5, blocks=6.5, networks_above=1, networks_below=19, components=components,
            unexplained_rms=0.006, repeatability=0.008, operators=(("mbconv_k3_e3@16x16-24s2", 0.01),),
        ),
        skipped=("MLP: needs 30 networks in every fold, has 16",),
        points=tuple(
            HeldOutPoint(predicted=value * (1 + 0.008 * generator.normal()), measured=value)
            for value in generator.uniform(0.7, 1.9, 20)
        ),
    )  # fmt: skip
    record = lut_predictor(SPACE, luts.read(run.folder / "lut.jsonl")).to_record()
    run.save_predictor("latency_ms", json.dumps(record.model_copy(update={"fit": fit}).to_json()))


def write_training(run: Run, seed: int) -> None:
    """Real weights, and the curve of a training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        run_folders.train(run, Network(SPACE.with_classes(10), FOUND))
    save_lines(run.train_folder / "metrics.jsonl", [
        TrainingEpoch(
            epoch=epoch, train_loss=0.55 + 1.6 * np.exp(-5 * at), train_accuracy=1 - 0.8 * np.exp(-6 * at),
            validation_loss=0.6 + 1.5 * np.exp(-4 * at), validation_accuracy=0.985 - 0.8 * np.exp(-5 * at),
            best_accuracy=0.986 - 0.8 * np.exp(-5 * at), elapsed_s=float(epoch),
        )
        for epoch, at in enumerate(np.arange(20) / 19)
    ])  # fmt: skip


def write_export(run: Run) -> None:
    """An export of the run's weights; no graph, since the report does not read it."""
    weights, model = run.weights.record, b"graph of " + run.weights.record.weights_sha256.encode()
    run.save_export(
        ExportRecord(
            precision="fp32",
            target="any", opset=13, ir_version=7, batch=1, input_size=16, classes=DATA.classes,
            normalisation=DATA.normalisation, operators=weights.operators, space_sha256=weights.space_sha256,
            weights_sha256=weights.weights_sha256, data_sha256=DATA.sha256, sha256=sha256_of(model),
            size_bytes=len(model), checked_with={"onnxruntime": "1.32.0"}, max_relative_difference=1e-4,
            agreement=Agreement(
                images=64, max_abs_difference=4.3e-6, relative_difference=4e-7, cosine=0.9999999, top1_agreement=1.0
            ),
        ),
        model,
    )  # fmt: skip


def write_verification(
    run: Run, centre_ms: float, target_ms: float, generator: np.random.Generator, asked: dict[str, float] | None = None
) -> None:
    """Of the run's export: 40 rounds of 10 inferences, one round much slower.

    Args:
        asked: budgets; the p50 latency when None.
    """
    drift = np.exp(0.02 * generator.standard_normal(40))
    samples = [
        tuple(float(centre_ms * factor * (1 + 0.006 * abs(shift))) for shift in generator.standard_normal(10))
        for factor in drift
    ]
    samples[11] = tuple(value * 1.4 for value in samples[11])
    visits = tuple(
        luts.Visit(key="net-0", architecture={}, session="00", round=index, repeats=1, samples_ms=row)
        for index, row in enumerate(samples)
    )
    entry = luts.Entry("net-0", visits, tuple(float(factor) for factor in drift / np.median(drift)))
    measured = parts.measured_latency(entry)
    accuracy = AccuracyRecord(
        top1=0.981, interval=(0.96, 0.991), images=360, reference_top1=0.981, drop=0.0, drop_interval=(-0.004, 0.004)
    )
    evidence = Evidence(measured, accuracy=accuracy, predicted={"latency_ms": Predicted(0.846, (0.821, 0.871))})
    predicted = LatencyEstimate(latency_ms=0.846, interval_ms=(0.821, 0.871))
    sentinels = {"stem@3x32-16s2": 1.021, "head@80x2-10": 1.022}
    comparison = parts.comparison(
        entry, "latency_ms", measured, predicted, luts.Ratio(1.021, (1.016, 1.026), 0.95, sentinels)
    )
    export, fingerprint = run.export.record, run.record.fingerprint
    record = run_folders.verification(
        asked or {"latency_ms": target_ms}, evidence, created="2026-11-23T19:31:00+00:00", model_sha256=export.sha256,
        weights_sha256=export.weights_sha256, data_sha256=export.data_sha256,
        predictor_sha256=sha256_of_file(run.folder / "predictor.json"),
        table_sha256=sha256_of_file(run.folder / "lut.jsonl"), comparison=comparison, reference="PyTorch",
        outputs=Agreement(
            images=360, max_abs_difference=4.3e-6, relative_difference=4e-7, cosine=0.9999998, top1_agreement=1.0
        ),
        fingerprint=fingerprint, simulated=bool(fingerprint["simulated"]),
        warnings=("net-0: unstable: spread 3.4 % of the median (limit 3 %); stop other work and verify again",),
    )  # fmt: skip
    journal = run.verify_folder / "unfinished.jsonl"
    write_atomic(journal, "")
    run.save_verification(record, journal)


def write_table(path: Path, space: Space, fingerprint: dict[str, Any], generator: np.random.Generator) -> None:
    """A journal with 15 rounds; an operator costs 8 µs and 7 µs for every million of multiply-accumulates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [{
        "kind": "lut", "schema": 1, "created": "2026-11-23T19:00:00Z", "agent_version": "0.1.0", "space": space.name,
        "space_sha256": space.sha256, "classes": space.classes, "units": {"latency": "ms", "energy": "mJ"}, "simulated": fingerprint["simulated"],
        "fingerprint": fingerprint, "board": {"memory_mb": 7850, "kernel": "synthetic"},
        "runtime": {"onnxruntime": "1.32.0"}, "sentinels": [],
        "protocol": {
            "version": 1, "rounds": 15, "samples_per_visit": 5, "seed": 0, "warmup_ms": 5.0, "min_sample_ms": 2.0,
            "timeout_s": 120.0,
        },
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


def write_search(path: Path, target_ms: float, epochs: int, generator: np.random.Generator) -> None:
    lines: list[SearchStep | SearchEpoch] = []
    layers, count = len(SPACE.layers), len(SPACE.operators)
    goal = FOUND.one_hot(SPACE)
    multiplier, step = 0.0, 0
    for epoch in range(epochs):
        warm = epoch < max(1, epochs // 9)
        weight = 0.0 if warm else (epoch / epochs) ** 1.2
        noise = generator.dirichlet(np.full(count, 12.0), size=layers)
        probabilities = weight * (0.85 * goal + 0.15 * noise) + (1 - weight) * noise
        derived = float(target_ms * (1.35 - 0.35 * weight**0.5) + 0.01 * generator.normal())
        for phase in ["warmup"] * 22 if warm else ["weights"] * 22 + ["architecture"] * 6:
            step += 1
            multiplier += 0.0 if warm else 0.004 * (derived / target_ms - 1)
            sampled = derived * (1 + (0.16 - 0.1 * weight) * generator.normal())
            lines.append(SearchStep(
                phase=phase, epoch=epoch, step=step, loss=2.3 * np.exp(-epoch / 6) + 0.4,
                accuracy=1 - 0.9 * np.exp(-epoch / 5), images=64, tau=5.0 * np.exp(-0.1 * epoch),
                multiplier=multiplier, sampled={"latency_ms": sampled}, derived={"latency_ms": derived},
                alpha_lr=0.001, weight_lr=0.1, elapsed_s=step * 0.2,
            ))  # fmt: skip
        progress = BudgetProgress(name="0.9ms", multipliers={"latency_ms": multiplier}, derived={"latency_ms": derived})
        lines.append(SearchEpoch(
            phase="warmup" if warm else "search", epoch=epoch,
            probabilities=tuple(map(tuple, probabilities.tolist())), entropy=1.0, score_std=0.1, posterior_std=0.1,
            budgets=(progress,), train_loss=2.2 * np.exp(-epoch / 6) + 0.35,
            train_accuracy=1 - 0.9 * np.exp(-epoch / 5),
            validation_loss=None if warm else 2.2 * np.exp(-epoch / 6) + 0.5,
            validation_accuracy=None if warm else 0.97 - 0.9 * np.exp(-epoch / 5), chance=0.1, elapsed_s=step * 0.2,
        ))  # fmt: skip
    save_lines(path, lines)


def save_lines(path: Path, lines: Any) -> None:
    write_atomic(path, "".join(json.dumps(line.to_json()) + "\n" for line in lines))
