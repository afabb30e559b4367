"""Fine-tuning in 8 bits: the weights of a trained network learn to live with the rounding."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from lightnas_edge.data import DataSet
from lightnas_edge.errors import DataError, RunError
from lightnas_edge.graph import Arithmetic, Dialect
from lightnas_edge.measuring.engines import why_no_int8
from lightnas_edge.nn import Network, Ranks, folded_weights
from lightnas_edge.nn.device import choose_device
from lightnas_edge.quantise.calibration import DEFAULT_METHOD, CalibrationImages, calibrate_network, share_cut
from lightnas_edge.quantise.fake_quantised import FakeQuantised
from lightnas_edge.records.quantisation import CalibrationMethod, CalibrationRecord, QuantisedTraining
from lightnas_edge.runs import Run
from lightnas_edge.train.config import TrainConfig
from lightnas_edge.train.train import TrainResult, load_network, recorded
from lightnas_edge.train.training import Event, Training, score

EPOCHS = 10
SHARE_OF_PEAK = 0.01  # of the learning rate of the training from scratch


def fine_tuning_config(
    *, epochs: int = EPOCHS, batch: int = 128, lr: float | None = None, seed: int = 0, device: str = "auto"
) -> TrainConfig:
    """The recipe of a fine-tuning: as from scratch, but short, without warm-up, and with a low learning rate.

    Args:
        lr: at the beginning; None: a hundredth of the peak from scratch.
    """
    scratch = TrainConfig(epochs=epochs, batch=batch, lr=lr, warmup_epochs=0, seed=seed, device=device)
    if lr is not None:
        return scratch
    return TrainConfig(
        epochs=epochs, batch=batch, lr=SHARE_OF_PEAK * scratch.peak_lr, warmup_epochs=0, seed=seed, device=device
    )


def fine_tune_quantised(
    run: Run | Path,
    data: DataSet,
    config: TrainConfig,
    images: CalibrationImages,
    *,
    method: CalibrationMethod = DEFAULT_METHOD,
    dialect: Dialect | None = None,
    resume: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Train the float weights of a run further with weights and activations rounded to 8 bits.

    It begins with batch norm folded into the weights and with calibrated ranges of activations. In the first half of the steps the
    ranges follow the training images, in the second half they stay: see `FakeQuantised`.

    Writes `train-int8/` as `train_network` writes `train/`, and `calibration.json` there. Called again with the same arguments
    it resumes from the last checkpoint; on the CPU with the same bits as if it had not stopped.

    Args:
        data: that the float weights were trained on, split as then.
        images: to calibrate on. Later the ranges come from the training images.
        method: of calibration; `minmax` observes lowest and highest values, any other leaves out what `percentile` does.
        dialect: of the int8 graph; that of the engine of the run's table when None.
        on_event: also called with `calibrated`, which has both accuracies before the fine-tuning.

    Raises:
        RunError: nothing is trained, the engine has no int8, the folder holds another fine-tuning or cannot be written, or another
            process writes there.
        CalibrationError: the images give no ranges.
        DataError: other images than those of the float weights, or an image cannot be read.
        DivergedError, KeyboardInterrupt: as `train_network`.
    """
    if Ranks().world > 1:
        raise RunError("a fine-tuning in 8 bits runs in one process", hint="repeat it without torchrun")
    run = run if isinstance(run, Run) else Run.open(run)
    on_event = on_event or (lambda event: None)
    floats = run.weights
    arithmetic = Arithmetic("int8", dialect or dialect_of(run))
    if data.sha256 != floats.record.data.sha256:
        raise DataError(
            f"{data.source} holds other images than the training of the float weights, which may be those that judge the network",
            hint=f"fine-tune on the same images: {floats.record.data.source}",
        )
    network = load_network(run)
    weights = folded_weights(network)
    with run.writing("train"), torch.random.fork_rng():
        calibrated = _calibrated(run, network, weights, arithmetic, images, method, resume=resume)
        steps = config.epochs * len(data.train_loader(config.batch))
        observed_steps = -(-steps // 2)

        def build() -> FakeQuantised:
            return FakeQuantised(
                network.space, network.architecture, weights, calibrated.ranges, calibrated.dialect,
                observed_passes=observed_steps, cut=share_cut(method),
            )  # fmt: skip

        device = choose_device(config.device)
        with closing(data.validation_loader(config.batch)) as batches:
            accuracies = {
                "float_accuracy": score(network.to(device), batches, device)[1],
                "calibrated_accuracy": score(build().to(device), batches, device)[1],
            }
        on_event({"kind": "calibrated", **accuracies})
        training = Training(
            run.quantised_folder,
            build,
            data,
            config,
            identity={
                "dialect": calibrated.dialect,
                "float_weights": floats.record.weights_sha256,
                "calibration": calibrated.sha256,
                "observed_steps": observed_steps,
            },
            on_event=on_event,
        )
        trained = training.run(resume=resume)
        best = build()
        best.load_state_dict(trained.weights)
        quantised = QuantisedTraining(
            dialect=calibrated.dialect,
            float_weights_sha256=floats.record.weights_sha256,
            calibration=calibrated,
            ranges=best.ranges,
            observed_steps=best.observed,
            **accuracies,
        )
        parameters = dict(best.named_parameters())
        record, content = recorded(trained, parameters, network.space, network.architecture, data, config, quantised)
        return TrainResult(record, run.save_training(record, content))


def dialect_of(run: Run) -> Dialect:
    """Of the int8 graphs that the engine of the run's table takes.

    Raises:
        RunError: the engine or its board has no int8.
    """
    fingerprint = run.record.fingerprint
    why = why_no_int8(fingerprint)
    if why is not None:
        raise RunError(
            f"the int8 weights would not run where the table of {shlex.quote(str(run.folder))} was measured: {why}",
            hint="to fine-tune for another engine, name what its graphs are like: --dialect tensorrt or --dialect ort",
        )
    dialect = Arithmetic.for_backend(str(fingerprint.get("backend", "onnxruntime")), "int8").dialect
    assert dialect is not None
    return dialect


def _calibrated(
    run: Run,
    network: Network,
    weights: Mapping[str, np.ndarray],
    arithmetic: Arithmetic,
    images: CalibrationImages,
    method: CalibrationMethod,
    *,
    resume: bool,
) -> CalibrationRecord:
    """The ranges at the start; of a fine-tuning that is resumed those of its start, because another number of threads may
    change their last digits.
    """
    path = run.quantised_folder / "calibration.json"
    sha256 = run.weights.record.weights_sha256
    if resume and path.exists():
        found = CalibrationRecord.load(path, error=RunError, remedy="repeat the command with --fresh to begin again")
        asked = (sha256, arithmetic.dialect, method, images.sha256)
        if (found.weights_sha256, found.dialect, found.method, found.images_sha256) == asked:
            return found
    record = calibrate_network(network.space, network.architecture, weights, arithmetic, images, sha256, method)
    if not resume or not (run.quantised_folder / "checkpoint.pt").exists():
        record.save(path)  # else the loop refuses to resume, and the earlier fine-tuning keeps its ranges
    return record
