"""Every reader of files that others write, with sound contents to damage."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import luts
from devices.errors import DeviceError
from devices.inventory import read_inventory
from devices.ssh.keys import KeyFileError, PassphraseError
from lightnas_edge.data.decoding import UnreadableImageError
from lightnas_edge.data.images import FileImages
from lightnas_edge.deploy import references
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.files import sha256_of
from lightnas_edge.models import random_inputs, read_model
from lightnas_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from lightnas_edge.predictor import load_predictor, read_published_predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.profiles import import_trtexec
from lightnas_edge.profiles.agent import read_layers
from lightnas_edge.records.metrics import read_metrics
from lightnas_edge.space import Space, load_space
from lightnas_edge.space.architecture import Architecture
from lightnas_edge.train.train import load_network
from profiler.errors import AgentError, MeasureError
from profiler.fields import RecordError
from profiler.manifest import read_manifest
from profiler.power.tegrastats import TegrastatsError, parse_log
from profiler.setup_note import read_note
from tests.fuzz.boards import NAMES as BOARD_NAMES
from tests.fuzz.boards import board_targets
from tests.fuzz.examples import example_records
from tests.fuzz.target import Target, damaged_json, damaged_lines, damaged_one_of, from_file, of_record
from tests.models import files as models
from tests.mutations import mutated_bytes
from tests.report.conftest import write_sample_run

FAMILY = (
    LightnasEdgeError, DeviceError, UnreadableImageError, KeyFileError, PassphraseError, AgentError, MeasureError, RecordError,
    TegrastatsError,
)  # fmt: skip
_PROFILES = Path(__file__).parents[1] / "profiles" / "data"
_SPACES = Path(__file__).parents[2] / "lightnas_edge" / "space" / "built_in"
_BLOCK = "MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0"
_CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
_TABLES = (
    f"board,key,latency_ms,energy_mj\nTX2,{_BLOCK},5.1,30.3\nAGX Xavier,{_BLOCK},0.99,\n",
    f"arch_str,latency_ms_cifar10,edgegpu_energy\n{_CELL},3.2,20\n{_CELL},3.2,\n",
    f"sep=;\r\nkey;Latency [µs]\r\n{_BLOCK};5100,5\r\n",
)
_INVENTORY = """kind = "boards"
schema = 1

[boards.bench-nano]
host = "192.168.55.1"
user = "nvidia"
port = 22
board = "jetson-nano"
"""
_TEGRASTATS = (
    "11-23-2026 19:00:00 RAM 2448/7772MB (lfb 3x2MB) SWAP 0/3886MB (cached 0MB) CPU [12%@1510,3%@1510,off,off] EMC_FREQ 0% "
    "GR3D_FREQ 41%@[624] CPU@46.5C GPU@47.1C VDD_IN 4512mW/4490mW VDD_CPU_GPU_CV 1210mW/1200mW\n"
)
_NOTE = {"job": "0" * 16, "boot_id": "b", "power_mode": 0, "clocks": None, "limits": {"a": "1"}}

EXAMPLES = example_records()
NAMES = (
    "image",
    "external table", "predictor", "published predictor", "space (TOML)", "space (JSON)", "architecture", "journal", "metrics",
    "trtexec graph", "trtexec metadata", "trtexec profile", "trtexec times", "trtexec log", "model", "reference", "inventory",
    "agent: job", "agent: note", "agent: tegrastats", "checkpoint", "weights", "layers", *(f"record {kind}" for kind in EXAMPLES),
    *BOARD_NAMES,
)  # fmt: skip


def targets(folder: Path) -> dict[str, Target]:
    """All targets by name. They write what they read below an empty folder."""
    run = write_sample_run(folder / "run", epochs=2)
    space = load_space("tiny")
    predictor = json.loads((run / "predictor.json").read_text())
    published = load_space("lightnas")
    network = models.saved(folder, models.convolution((1, 3, 8, 8), (1, 4, 6, 6)))
    classifier = read_model(network)
    found = [
        Target("image", damaged_one_of(_images()), from_file(folder / "image", _use_image), 10),
        Target("external table", damaged_one_of([text.encode() for text in _TABLES]), from_file(folder / "t.csv", _use_table), 40),
        Target("predictor", damaged_json(predictor), from_file(folder / "p.json", _use_predictor), 1),
        Target("published predictor", damaged_one_of([_published()]), from_file(
            folder / "p.npz", lambda path: read_published_predictor(path, published).predict(
                one_hot_of(published, np.zeros((1, 21), dtype=int))
            ),
        ), 3),
        Target("space (TOML)", damaged_one_of([path.read_bytes() for path in sorted(_SPACES.glob("*.toml"))]),
               from_file(folder / "s.toml", _use_space), 20),
        Target("space (JSON)", damaged_json(space.to_json()), from_file(folder / "s.json", _use_space), 10),
        Target("architecture", damaged_json(json.loads((run / "architecture.json").read_text())),
               from_file(folder / "a.json", lambda path: Architecture.load(path, space)), 20),
        Target("journal", damaged_lines((run / "lut.jsonl").read_bytes().splitlines()[:9], seal=True),
               from_file(folder / "j.lut.jsonl", _use_journal), 3),
        Target("metrics", damaged_lines((run / "search/metrics.jsonl").read_bytes().splitlines()[20:26]),
               from_file(folder / "m.jsonl", read_metrics), 10),
        *(
            Target(f"trtexec {path.suffixes[0][1:]}",
                   damaged_json(json.loads(path.read_text())) if path.suffix == ".json" else damaged_one_of([path.read_bytes()]),
                   from_file(folder / f"trt{path.suffix}", lambda path: import_trtexec([path]).to_json()), 3)
            for path in [*sorted(_PROFILES.glob("resnet18.*.json")), _PROFILES / "efficientdet-lite3_fp16.log"]
        ),
        Target("model", damaged_one_of([made.SerializeToString() for made in (
            models.convolution((1, 3, 8, 8), (1, 4, 6, 6)), models.embedding(), models.branching(), models.with_function(),
        )]), from_file(folder / "n.onnx", lambda path: random_inputs(read_model(path), 1, 0)), 2),
        Target("reference", damaged_one_of([_reference()]),
               from_file(folder / "r.npz", lambda path: references.from_npz(classifier, path)), 5),
        Target("inventory", damaged_one_of([_INVENTORY.encode()]), from_file(folder / "boards.toml", read_inventory), 40),
        Target("agent: job", damaged_json(_job(folder)), from_file(
            folder / "agent" / "manifest.json", lambda path: read_manifest(str(path.parent))), 20),
        Target("agent: note", damaged_json(_NOTE), from_file(folder / "note", lambda path: read_note(str(path))), 60),
        Target("agent: tegrastats", damaged_one_of([_TEGRASTATS.encode()]),
               lambda content: _use_lines(parse_log(content.decode("utf-8", "replace").splitlines())), 150),
        Target("checkpoint", _damaged_checkpoint(folder / "c.pt"), from_file(
            folder / "c.pt", lambda path: json.dumps(load_checkpoint(path, schema=1), default=repr)), 10),
        Target("weights", damaged_one_of([(run / "train" / "weights.safetensors").read_bytes()]),
               _use_weights(write_sample_run(folder / "trained", epochs=2)), 1),
        Target("layers", damaged_json(EXAMPLES["layer-profile"][1]), from_file(folder / "l.json", lambda path: read_layers(path).to_json()), 10),
        *(Target(f"record {kind}", damaged_json(example), of_record(record), 1 if kind == "report" else 15) for kind, (record, example) in EXAMPLES.items()),
        *board_targets(folder),
    ]  # fmt: skip
    assert [target.name for target in found] == list(NAMES)
    return {target.name: target for target in found}


def _images() -> list[bytes]:
    """A small image in every format, and in the modes that are decoded specially."""
    generator = np.random.default_rng(0)
    colour = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(generator.integers(0, 2**16, (9, 12)).astype(np.uint16))
    found = []
    for image, name, options in (
        (colour, "png", {}), (colour, "jpeg", {"exif": exif}), (colour, "bmp", {}), (colour, "gif", {}), (colour, "ppm", {}),
        (colour, "tiff", {"exif": exif}), (colour, "webp", {}), (colour, "tga", {}), (colour, "pcx", {}), (deep, "png", {}),
        (deep, "tiff", {"compression": "tiff_adobe_deflate"}), (colour.convert("CMYK"), "jpeg", {}),
        (colour.convert("P"), "png", {"transparency": 0}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, format=name, **options)
        found.append(buffer.getvalue())
    return [*found, b"P2\n3 2\n65535\n0 1 2\n3 4 65535\n"]


def _published() -> bytes:
    buffer = io.BytesIO()
    sizes = [(128, 147), (64, 128), (1, 64)]
    arrays = {f"w{n}": np.full(size, 0.01, np.float32) for n, size in enumerate(sizes, 1)}
    arrays |= {f"b{n}": np.zeros(size[0], np.float32) for n, size in enumerate(sizes, 1)}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _damaged_checkpoint(path: Path) -> Callable[[random.Random], bytes]:
    """Damage that the checksum finds, or damage under a checksum that fits: what torch reads then."""
    state = {
        "schema": 1,
        "weights": torch.zeros(3),
        "epoch": 2,
        "generator": torch.get_rng_state()[:8],
        "log": ["a", None, 1.5],
    }
    save_checkpoint(path, state)
    whole = path.read_bytes()
    name, _, rest = whole.partition(b"\n")
    _, _, payload = rest.partition(b"\n")

    def damaged(generator: random.Random) -> bytes:
        if generator.random() < 0.2:
            return mutated_bytes(whole, generator)
        content = mutated_bytes(payload, generator)
        return b"%s\n%s\n%s" % (name, sha256_of(content).encode(), content)

    return damaged


def _use_weights(run: Path) -> Callable[[bytes], None]:
    """The training's record names the damaged file, so that its content decides."""
    result, weights = run / "train" / "result.json", run / "train" / "weights.safetensors"
    record = json.loads(result.read_text())

    def read(content: bytes) -> None:
        weights.write_bytes(content)
        result.write_text(json.dumps(record | {"weights_sha256": sha256_of(content)}))
        load_network(run)

    return read


def _reference() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((1, 3, 8, 8), np.float32), y=np.zeros((1, 4, 6, 6), np.float32))
    return buffer.getvalue()


def _job(folder: Path) -> Any:
    from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job

    tiny = load_space("tiny")
    settings = Settings(protocol=MeasurementProtocol(rounds=2), power_mode="MAXN", energy_rounds=2)
    write_profile_job(folder / "job", tiny, settings, operators=tiny.shaped_operators()[:2])
    return json.loads((folder / "job" / "manifest.json").read_text())


def _use_image(path: Path) -> None:
    images = FileImages([path], np.zeros(1, np.int64), 8)
    assert images.image(0, None).shape == (8, 8, 3)
    assert images.image(0, np.random.default_rng(0)).shape == (8, 8, 3)


def _use_table(path: Path) -> None:
    table = read_external_table(path)
    assert len(table.features) == len(table.keys)
    assert all(len(values) == len(table.keys) for values in table.values.values())


def _use_predictor(path: Path) -> None:
    predictor = load_predictor(path)
    query = one_hot_of(predictor.space, np.zeros((1, len(predictor.space.layers)), dtype=int))
    assert np.isfinite(predictor.predict(query)).all()
    predictor.to_record().to_json()


def _use_space(path: Path) -> None:
    space = load_space(path)
    assert Space.from_json(space.to_json()) == space


def _use_journal(path: Path) -> None:
    table = luts.read(path)
    for entry in table.entries.values():
        assert entry.latency_ms > 0


def _use_lines(found: tuple[list[Any], list[Any]]) -> None:
    for _, line, error in found[1]:
        assert str(error) and isinstance(line, str)
