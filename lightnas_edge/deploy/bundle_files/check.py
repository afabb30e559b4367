"""Check this bundle on the board. Needs Python 3.6, numpy, and ONNX Runtime or TensorRT; Pillow checks the preprocessing.

python3 check.py runs model.onnx in ONNX Runtime; with --engine model.engine, an engine of TensorRT, built as in README.txt.
Exit code: 0 everything agrees, 1 something differs, 2 the check cannot run.
"""

import argparse
import hashlib
import json
import os
import sys

import numpy as np


def read(name):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "rb") as file:
        return file.read()


def is_whole(sha256, name):
    try:
        return hashlib.sha256(read(name)).hexdigest() == sha256
    except OSError:
        return False


def preprocessed(name, size, rule):
    """(3, S, S) as the network takes it, from an image of any size."""
    from PIL import Image

    image = Image.open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)).convert("RGB")
    if rule["resize"] is not None:
        side = min(image.size) * rule["resize"]["share_of_shorter_side"]
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.resize((size, size), Image.BILINEAR, box=(left, top, left + side, top + side))
    scaled = (np.asarray(image, np.float32) / 255 - np.float32(rule["mean"])) / np.float32(rule["standard_deviation"])
    return scaled.transpose(2, 0, 1)


def by_onnxruntime(batches, facts):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when it is imported
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # versions before that variable know this call alone
    print("ONNX Runtime", onnxruntime.__version__)
    session = onnxruntime.InferenceSession(read(facts["model"]), providers=["CPUExecutionProvider"])
    return [session.run(None, {facts["input"]["name"]: batch})[0] for batch in batches]


def by_tensorrt(path, batches, facts):
    from engine_of_tensorrt import Engine

    engine = Engine(path, facts["input"], facts["output"])
    return [engine.run(batch) for batch in batches]


def values_of(name, tensor):
    return np.frombuffer(read(name), "<f4").reshape([-1, *tensor["shape"][1:]])


def faults_of(engine):
    sums = [line.split(None, 1) for line in read("SHA256SUMS").decode("utf-8").splitlines()]
    faults = [name + " is missing or damaged" for sha256, name in sums if not is_whole(sha256, name)]
    if faults:
        return faults
    facts = json.loads(read("bundle.json").decode("utf-8"))
    inputs = values_of("inputs.f32", facts["input"])
    expected = values_of("outputs.f32", facts["output"])
    rule = facts["preprocessing"]
    try:
        for image, values in zip(facts["images"], inputs):  # noqa: B905  # no strict in Python 3.6
            difference = np.abs(preprocessed(image["file"], inputs.shape[-1], rule) - values).mean((1, 2))
            levels = 255 * np.mean(difference * rule["standard_deviation"])
            if levels > rule["tolerance_levels"]:
                faults.append(f"{image['file']}, preprocessed here, differs by {levels:.1f} of 255 levels")
    except ImportError:
        print("Pillow is not installed: the preprocessing is not checked")
    batches = np.split(inputs, len(inputs) // facts["input"]["shape"][0])
    found = np.concatenate(by_tensorrt(engine, batches, facts) if engine else by_onnxruntime(batches, facts))
    difference, limit = np.abs(found - expected).max() / np.abs(expected).max(), facts["tolerance"]
    same = (found.argmax(1) == expected.argmax(1)).mean()
    print(f"{facts['precision']}: outputs differ by {difference:.2g} of the largest (limit {limit:g})")
    print(f"{same:.0%} of {len(found)} inputs get the expected class")
    if not difference <= limit:  # also where it is no number
        faults.append("the outputs differ from those of the bundle")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", metavar="FILE", help="an engine of TensorRT; without it, ONNX Runtime")
    try:
        all_faults = faults_of(parser.parse_args().engine)
    except Exception as error:  # whatever a runtime raises
        print(f"cannot check: {error}")
        sys.exit(2)
    print("\n".join("FAILED: " + fault for fault in all_faults) or "PASSED")
    sys.exit(bool(all_faults))
