"""A deployment bundle: everything that a board needs to build, feed and check an exported network, without lightnas-edge.

model.onnx calibration.json bundle.json README.txt      the network, its ranges in int8, facts for programs and for people
images/ inputs.f32 outputs.f32                          validation images, the same preprocessed, and what the network answers
check.py engine_of_tensorrt.py SHA256SUMS               the check on the board, and the hash of every file
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from lightnas_edge.data import DataSet
from lightnas_edge.data.decoding import DECODING, open_image
from lightnas_edge.data.images import RESIZE_RATIO, FileImages
from lightnas_edge.deploy.targets import DEFAULT_TARGET, parse_target
from lightnas_edge.errors import ExportError
from lightnas_edge.files import sha256_of, write_atomic
from lightnas_edge.graph.opsets import version_of
from lightnas_edge.models.reference import load, run_once
from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.bundle import BundleImage, BundleRecord, BundleTensor, Preprocessing, Resize
from lightnas_edge.records.deployment import ExportRecord
from lightnas_edge.runs import Export, Run

IMAGES = 8
# Of the largest output. In float32 TensorRT multiplies with 11 bits on Ampere GPUs (TF32). In int8 a value between two steps
# may be rounded to either, in every layer, and ONNX Runtime saturates on CPUs without VNNI: docs/graphs.md.
TOLERANCES = {"fp32": 0.01, "fp16": 0.05, "int8": 0.3}
# Levels of 255. Images of the input's size are stored as they are; others are resampled from the full image, where training
# decodes JPEG files at a lower resolution.
_TOLERANCE_LEVELS = {"stored": 0.01, "resized": 4.0}
_RUNNER = ("check.py", "engine_of_tensorrt.py")
_WORKSPACE_MB = 512  # of the agent's builder, on boards of 4 GB and more
_TRTEXEC = "/usr/src/tensorrt/bin/trtexec --onnx=model.onnx --saveEngine=model.engine"


@dataclass(frozen=True)
class Bundle:
    """`path` is the folder or the archive."""

    path: Path
    record: BundleRecord


def write_bundle(run: Run, export: Export, data: DataSet, path: Path, *, images: int = IMAGES) -> Bundle:
    """Write the bundle of an export, as an archive where the path ends in .zip, and else as a folder.

    Args:
        data: the images of the training.
        images: validation images in it.

    Raises:
        ExportError: the path holds something else, or cannot be written.
    """
    chosen = _chosen(len(data.validation), images)
    record, content = _content(run, export, data, chosen)
    try:
        if path.suffix == ".zip":
            write_atomic(path, _zipped(content, path.stem))
        else:
            _write_folder(content, path)
    except OSError as error:
        raise ExportError(f"the bundle {path} cannot be written: {error}") from error
    return Bundle(path, record)


def build_commands(precision: str, fingerprint: Fingerprint, target: str) -> dict[str, str]:
    """Version of TensorRT -> the command that builds the engine as `verify` does: that of the target or of the run's table, or
    one for each kind of version where neither names one.

    A graph with QuantizeLinear has its scales: trtexec needs no calibration cache.
    """
    name, version = parse_target(target)
    backend = str(fingerprint.get("backend", ""))
    if name == DEFAULT_TARGET:
        name = backend
    if name == "tensorrt" and not version and backend == "tensorrt":
        version = str(fingerprint.get("backend_version", ""))
    if name.startswith("onnxruntime") and name != "onnxruntime-tensorrt":
        return {}
    parsed = version_of(version)
    if parsed is not None:
        return {version: _command(precision, parsed)}
    return {
        "8.0 to 8.3": _command(precision, (8, 0)),
        "8.4 to 10": _command(precision, (8, 4)),
        "11": _command(precision, (11, 0)),
    }


def _command(precision: str, version: tuple[int, ...]) -> str:
    """The flags of profiler/backends/tensorrt/builder.py: what has no INT8 kernel may run in FP16; from 11 on the graph decides."""
    permitted = {"fp32": "", "fp16": " --fp16", "int8": " --int8 --fp16"}[precision] if version < (11,) else ""
    pool = f" --workspace={_WORKSPACE_MB}" if version < (8, 4) else f" --memPoolSize=workspace:{_WORKSPACE_MB}"
    return _TRTEXEC + permitted + pool


def _content(run: Run, export: Export, data: DataSet, chosen: list[int]) -> tuple[BundleRecord, dict[str, bytes]]:
    """Files by name."""
    record = export.record
    inputs, labels = data.validation_arrays(len(chosen))
    filled = np.concatenate([inputs, *[inputs[-1:]] * (-len(inputs) % record.batch)])
    outputs = _outputs(export, filled)
    pictures = {f"images/{place}.png": _picture(data, index) for place, index in enumerate(chosen)}
    resized = isinstance(data.validation, FileImages)
    given, made = _ends(export.content)
    quantisation = record.quantisation
    bundle = BundleRecord(
        model_sha256=record.sha256,
        weights_sha256=record.weights_sha256,
        precision=record.precision,
        dialect=None if quantisation is None else quantisation.dialect,
        quantisation=quantisation,
        opset=record.opset,
        input=given,
        output=made,
        preprocessing=Preprocessing(
            decoding=DECODING,
            resize=Resize(share_of_shorter_side=1 / RESIZE_RATIO) if resized else None,
            mean=record.normalisation.mean,
            standard_deviation=record.normalisation.standard_deviation,
            tolerance_levels=_TOLERANCE_LEVELS["resized" if resized else "stored"],
        ),
        labels=record.classes,
        tolerance=TOLERANCES[record.precision],
        expected_by=f"ONNX Runtime {onnxruntime.__version__} on the CPU, graph optimisations off",
        build=_build(run, record),
        images=tuple(
            BundleImage(file=name, label=record.classes[label]) for name, label in zip(pictures, labels, strict=True)
        ),
    )
    content = {
        "model.onnx": export.content,
        "bundle.json": (json.dumps(bundle.to_json(), indent=2, ensure_ascii=False) + "\n").encode(),
        "README.txt": _readme(bundle, record, run).encode(),
        "inputs.f32": filled.astype("<f4").tobytes(),
        "outputs.f32": outputs.astype("<f4").tobytes(),
        **pictures,
        **{name: files("lightnas_edge.deploy").joinpath("bundle_files", name).read_bytes() for name in _RUNNER},
    }
    if export.calibration is not None:
        content["calibration.json"] = (json.dumps(export.calibration.to_json(), indent=2) + "\n").encode()
    content["SHA256SUMS"] = "".join(f"{sha256_of(content[name])}  {name}\n" for name in sorted(content)).encode()
    return bundle, content


def _build(run: Run, record: ExportRecord) -> dict[str, str]:
    dialect = None if record.quantisation is None else record.quantisation.dialect
    if dialect == "ort":
        return {}
    # A graph of TensorRT's dialect is not for the engine that the table was measured with, where that is another.
    measured_with = run.record.fingerprint
    other = dialect == "tensorrt" and measured_with.get("backend") != "tensorrt"
    return build_commands(record.precision, {} if other else measured_with, record.target)


def _chosen(count: int, images: int) -> list[int]:
    """The places of those that `validation_arrays` takes."""
    return list(range(count)) if images >= count else [int(place) for place in np.linspace(0, count - 1, images)]


def _picture(data: DataSet, index: int) -> bytes:
    """The whole image where the network's input is cut out of it, so that the cutting can be checked; PNG."""
    if isinstance(data.validation, FileImages):
        with open_image(data.validation.paths[index]) as opened:
            picture = opened.rgb()
    else:
        picture = Image.fromarray(np.asarray(data.validation.image(index, None)))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _outputs(export: Export, inputs: np.ndarray) -> np.ndarray:
    """Of the file as it is written: fused kernels of one CPU may round otherwise."""
    session = load(export.content, str(export.path))
    name = session.get_inputs()[0].name
    batches = np.split(inputs, len(inputs) // export.record.batch)
    return np.concatenate([next(iter(run_once(session, {name: each}, str(export.path)).values())) for each in batches])


def _ends(content: bytes) -> tuple[BundleTensor, BundleTensor]:
    graph = onnx.load_model_from_string(content).graph
    given, made = (
        BundleTensor(name=value.name, shape=tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in (graph.input[0], graph.output[0])
    )
    return given, made


def _readme(bundle: BundleRecord, record: ExportRecord, run: Run) -> str:
    size = record.input_size
    lines = [
        f"A network in {bundle.precision}, {size} x {size} pixels, batch {record.batch}, {len(bundle.labels)} classes.",
        f"Written by lightnas-edge from the run {run.folder.name}; weights {bundle.weights_sha256[:12]}.",
        "",
        "1. Check the files:         sha256sum -c SHA256SUMS",
    ]
    if bundle.build:
        lines += ["2. Build the engine on the board that runs it, with the command of its TensorRT:"]
        lines += [f"   TensorRT {version}:\n     {command}" for version, command in bundle.build.items()]
        if bundle.precision == "int8":
            lines += [
                "   The scales are in the graph. No calibration cache is needed; calibration.json says what they come from."
            ]
        lines += ["3. Check the engine:        python3 check.py --engine model.engine"]
        lines += ["   The ONNX file itself, in ONNX Runtime:  python3 check.py"]
    else:
        reason = "This int8 graph is written for ONNX Runtime; TensorRT refuses it. `export --target tensorrt-8.2` writes one for it."
        lines += ["2. Check the network:       python3 check.py", *([reason] if bundle.precision == "int8" else [])]
    lines += ["", "bundle.json has the preprocessing, the labels, and the names and shapes of input and output."]
    return "\n".join(lines) + "\n"


def _zipped(content: dict[str, bytes], name: str) -> bytes:
    """One folder; equal bundles give equal archives."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(content):
            entry = zipfile.ZipInfo(f"{name}/{each}")  # of 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content[each], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _refuse_other_files(path: Path, content: dict[str, bytes]) -> None:
    """Raises ExportError: the path holds no bundle, or one with files of the user, such as an engine that was built in it."""
    hint = "name another folder, or a file that ends in .zip"
    if not path.is_dir():
        raise ExportError(f"{path} is there and is no bundle", hint=hint)
    present = sorted(
        str(each.relative_to(path))
        for each in path.rglob("*")
        if not each.is_dir() and each.parent.name != "__pycache__"
    )
    if not present:
        return
    try:
        earlier = BundleRecord.load(path / "bundle.json", error=ExportError, remedy=hint)
    except ExportError as error:
        raise ExportError(f"{path} is there and is no bundle", hint=hint) from error
    known = {*content, "SHA256SUMS", *(f"images/{place}.png" for place in range(len(earlier.images)))}
    others = [name for name in present if name not in known]
    if others:
        raise ExportError(f"{path} holds files of yours in a bundle: {', '.join(others[:5])}", hint=hint)


def _write_folder(content: dict[str, bytes], path: Path) -> None:
    """Whole or not at all. A bundle is replaced; anything else there is kept."""
    if path.exists():
        _refuse_other_files(path, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=path.parent) as scratch:
        made = Path(scratch) / "bundle"
        for name, data in content.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(data)
        if path.exists():
            old = Path(scratch) / "old"
            os.replace(path, old)
            try:
                os.replace(made, path)
            except OSError:
                os.replace(old, path)
                raise
        else:
            os.replace(made, path)
