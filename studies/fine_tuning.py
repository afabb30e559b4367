"""What calibration alone costs, and what `train --quantize int8` regains: on test images that no training saw.

    python -m studies.fine_tuning RUN --test FOLDER [--calibrate DIR|N] [--calibration-method M] [--dialect D] [--epochs 2]

RUN is a trained run, which stays as it is; FOLDER holds CLASS/*.png of the same classes. For each seed, the float weights are trained
further twice, on the same images in the same order with the same learning rates: with rounding, and in float32. The second is the
control: it shows what further training gives without rounding. ONNX Runtime executes the files. Differences are of the same images,
with intervals of 95 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.notes import note
from lightnas_edge.cli._calibration import calibration_images
from lightnas_edge.cli._console import print_table
from lightnas_edge.data import DataSet, load_validation_images
from lightnas_edge.deploy.export import load_training_data
from lightnas_edge.graph import Arithmetic, Dialect, model_bytes, network_model
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.quantise.calibration import (
    DEFAULT_IMAGES,
    DEFAULT_METHOD,
    CalibrationImages,
    calibrate_network,
    quantised_network_model,
)
from lightnas_edge.records.quantisation import CalibrationMethod
from lightnas_edge.runs import Run
from lightnas_edge.train import TrainConfig, dialect_of, fine_tune_quantised, fine_tuning_config, load_network
from lightnas_edge.train.training import Training

Weights = dict[str, NDArray[np.float32]]
Correct = NDArray[np.float64]  # of each test image: 1 or 0
_BATCH = 100


class Comparison:
    """Networks of one run on one set of test images."""

    def __init__(self, run: Run, test: Path, dialect: Dialect, images: CalibrationImages, method: CalibrationMethod):
        self.run, self.images, self.method = run, images, method
        self.arithmetic = Arithmetic("int8", dialect)
        self.network = load_network(run)
        self.weights = folded_weights(self.network)
        self.pixels, self.labels, classes = load_validation_images(test, run.space.input_size, 100_000)
        self.pixels = self.pixels[: len(self.pixels) // _BATCH * _BATCH]
        self.labels = self.labels[: len(self.pixels)]
        assert classes == run.weights.record.data.classes, f"{test} has the classes {classes}"

    def float_accuracy(self, network: Network | None = None) -> Correct:
        network = network or self.network
        weights = folded_weights(network.eval())
        return self._executed(network_model(network.space, network.architecture, batch=_BATCH, weights=weights))

    def calibrated(self) -> Correct:
        space, architecture = self.network.space, self.network.architecture
        record = calibrate_network(
            space, architecture, self.weights, self.arithmetic, self.images, self.run.weights.record.weights_sha256,
            self.method,
        )  # fmt: skip
        return self._executed(
            quantised_network_model(space, architecture, self.weights, self.arithmetic, record.ranges, batch=_BATCH)
        )

    def fine_tuned(self, data: DataSet, config: TrainConfig) -> Correct:
        from safetensors.numpy import load_file

        with tempfile.TemporaryDirectory(prefix="lightnas-edge-fine-tuning-") as folder:
            copy = shutil.copytree(self.run.folder, Path(folder) / "run", ignore=shutil.ignore_patterns("train-int8"))
            dialect = self.arithmetic.dialect
            found = fine_tune_quantised(copy, data, config, self.images, method=self.method, dialect=dialect)
            weights = load_file(found.weights)
        assert found.record.quantised is not None
        ranges = found.record.quantised.ranges
        return self._executed(
            quantised_network_model(
                self.network.space, self.network.architecture, weights, self.arithmetic, ranges, batch=_BATCH
            )
        )

    def trained_further(self, data: DataSet, config: TrainConfig) -> Correct:
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-fine-tuning-") as folder:
            training = Training(
                Path(folder), lambda: load_network(self.run), data, config, identity={}, on_event=lambda event: None
            )
            network = load_network(self.run)
            network.load_state_dict(training.run(resume=False).weights)
        return self.float_accuracy(network)

    def _executed(self, model: onnx.ModelProto) -> Correct:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])
        parts = [
            session.run(None, {"input": self.pixels[at : at + _BATCH]})[0].argmax(axis=1)
            for at in range(0, len(self.pixels), _BATCH)
        ]
        correct: Correct = (np.concatenate(parts) == self.labels).astype(np.float64)
        return correct


def difference(of: Correct, to: Correct) -> str:
    paired = of - to
    return f"{100 * paired.mean():+.2f} ± {196 * paired.std(ddof=1) / np.sqrt(len(paired)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--test", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--calibrate", default=str(DEFAULT_IMAGES), metavar="DIR|N")
    parser.add_argument("--calibration-method", default=DEFAULT_METHOD, choices=get_args(CalibrationMethod))
    parser.add_argument("--dialect", choices=get_args(Dialect))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3, help="0: no training")
    arguments = parser.parse_args()
    run = Run.open(arguments.run_folder)
    data = load_training_data(run)
    chosen = calibration_images(arguments.calibrate, run.space.input_size)
    images = CalibrationImages.from_training(data, chosen) if isinstance(chosen, int) else chosen
    method = arguments.calibration_method
    comparison = Comparison(run, arguments.test, arguments.dialect or dialect_of(run), images, method)
    floats, calibrated = comparison.float_accuracy(), comparison.calibrated()
    found = [("float32", floats), (f"int8, calibrated: {images.source}, {method}", calibrated)]

    def write(rows: list[tuple[str, Correct]]) -> None:
        columns = [f"{comparison.arithmetic}, n={len(floats)}", "top-1", "to float32, points", "to calibrated, points"]
        print_table(columns, [
            [name, f"{100 * row.mean():.2f} %", difference(row, floats), difference(row, calibrated)] for name, row in rows
        ])  # fmt: skip

    write(found)
    if not arguments.seeds:
        return
    tuned, control = [], []
    for seed in range(arguments.seeds):
        # The images of both parts stay; order and augmentation are of the seed.
        of_seed = dataclasses.replace(data, seed=seed)
        config = fine_tuning_config(epochs=arguments.epochs, seed=seed)
        tuned.append(comparison.fine_tuned(of_seed, config))
        note(f"seed {seed}, fine-tuned: {difference(tuned[-1], floats)} points to float32")
        control.append(comparison.trained_further(of_seed, config))
        note(f"seed {seed}, trained further: {difference(control[-1], floats)} points to float32")
        found += [
            (f"int8, fine-tuned, seed {seed}", tuned[-1]),
            (f"float32, trained further, seed {seed}", control[-1]),
        ]
    mean_tuned, mean_control = np.mean(tuned, axis=0), np.mean(control, axis=0)
    found += [("int8, fine-tuned, mean", mean_tuned), ("float32, trained further, mean", mean_control)]
    print()
    write(found)
    print(f"\nfine-tuned int8 to float32 trained further: {difference(mean_tuned, mean_control)} points")


if __name__ == "__main__":
    main()
