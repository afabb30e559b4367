"""Damaged files: no content ends in anything but an error of the program's own."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.predictor import fit_best, fit_mlp, load_predictor, read_published_predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.records.adaptive import AdaptiveSamplingRecord
from lightnas_edge.space import load_space
from tests.mutations import mutated_bytes, mutated_json
from tests.predictor.boards import observed, profile, small_space

SPACE = small_space()
INDICES = np.random.default_rng(0).integers(3, size=(60, 4))
OBSERVED = observed(SPACE, INDICES, 1.0 + 0.1 * (INDICES == 1).sum(axis=1))
QUERY = one_hot_of(SPACE, INDICES[:3])
BLOCK = "MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0"
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"


def refused_or_used(read, use, count):
    """Number of files that were read; the others raised an error of the program's own."""
    used = 0
    for _ in range(count):
        try:
            found = read()
        except LightnasEdgeError as error:
            assert str(error)
            continue
        use(found)
        used += 1
    return used


def predict(predictor):
    assert np.isfinite(predictor.predict(QUERY)).all()
    assert np.isfinite(predictor.upper(QUERY, 0.95)).all()
    predictor.extrapolated(QUERY)
    predictor.to_record().to_json()


@pytest.fixture(scope="module")
def additive(tmp_path_factory):
    table = profile(tmp_path_factory.mktemp("table") / "t", SPACE)
    small = observed(SPACE, INDICES[:12], OBSERVED.value[:12])
    return fit_best(SPACE, table, small)[0].to_record().to_json()


@pytest.fixture(scope="module")
def mlp():
    return fit_mlp(SPACE, OBSERVED, epochs=2, hidden=(4,)).to_record().to_json()


@pytest.mark.parametrize("name", ["additive", "mlp"])
@pytest.mark.parametrize("given", [None, SPACE])
def test_a_damaged_predictor_is_refused_or_predicts(tmp_path, name, given, request):
    record, generator, path = request.getfixturevalue(name), random.Random(1), tmp_path / "p.json"

    def read():
        path.write_bytes(mutated_json(record, generator))
        return load_predictor(path, given)

    assert refused_or_used(read, predict, 250) < 125


def test_a_damaged_sampling_record_is_refused_or_read(tmp_path):
    progress = {
        "networks": 10, "half_width": 0.02, "floor": 0.01, "discrepancy": 0.006, "noise": 0.008, "leave_one_out": 0.01,
        "repeatability": None,
    }  # fmt: skip
    record = AdaptiveSamplingRecord.model_validate_json(
        json.dumps({
            "space": "tiny", "table": "t.lut.jsonl", "goal": {"metric": "latency_ms", "around": None, "until": 0.01},
            "curve": [progress], "planned": [["skip", "mbconv_k3_e3"]], "tried": [["skip", "mbconv_k3_e3"]],
        })
    ).to_json()  # fmt: skip
    generator, path = random.Random(2), tmp_path / "a.adaptive.json"

    def read():
        path.write_bytes(mutated_json(record, generator))
        return AdaptiveSamplingRecord.load(path)

    assert refused_or_used(read, lambda found: found.to_json(), 500) < 250


@pytest.mark.parametrize(
    "text",
    [
        f"board,key,latency_ms,energy_mj\nTX2,{BLOCK},5.1,30.3\nAGX Xavier,{BLOCK},0.99,\n",
        f"arch_str,latency_ms_cifar10,edgegpu_energy\n{CELL},3.2,20\n{CELL},3.3,\n",
    ],
)
def test_a_damaged_table_is_refused_or_read(tmp_path, text):
    generator, path = random.Random(3), tmp_path / "t.csv"

    def read():
        path.write_bytes(mutated_bytes(text.encode(), generator))
        return read_external_table(path)

    assert refused_or_used(read, lambda table: len(table.features), 400) < 400


def test_a_damaged_published_predictor_is_refused_or_predicts(tmp_path):
    space, buffer = load_space("lightnas"), io.BytesIO()
    sizes = [(128, 147), (64, 128), (1, 64)]
    arrays = {f"w{n}": np.full(size, 0.01, np.float32) for n, size in enumerate(sizes, 1)}
    arrays |= {f"b{n}": np.zeros(size[0], np.float32) for n, size in enumerate(sizes, 1)}
    np.savez_compressed(buffer, **arrays)
    generator, path = random.Random(4), tmp_path / "p.npz"

    def read():
        path.write_bytes(mutated_bytes(buffer.getvalue(), generator))
        return read_published_predictor(path, space)

    query = one_hot_of(space, np.zeros((1, 21), dtype=int))
    assert refused_or_used(read, lambda predictor: predictor.predict(query), 500) < 500
