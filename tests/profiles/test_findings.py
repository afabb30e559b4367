"""Findings are said where the numbers show them, and not where they do not."""

import json
import random

import pytest

from lightnas_edge.errors import RecordError
from lightnas_edge.profiles import find, profile_record
from lightnas_edge.profiles.agent import read_layers
from lightnas_edge.records.model import ModelRecord, TensorRecord
from lightnas_edge.records.model_profile import LayerProfileFile
from tests.mutations import mutated_json
from tests.run_folders import measured


def tensor(*shape):
    return {"name": "t", "type": "fp16", "shape": shape}


def layer(name, ms, **changed):
    """Ten runs of one time."""
    return {
        "name": name, "type": "Conv", "precision": "fp16", "times_ms": [ms] * 10, "onnx_nodes": [name], "is_reformat": False,
        "inputs": [], "outputs": [], **changed,
    }  # fmt: skip


def layer_file(layers, **changed):
    return {
        "kind": "layer-profile", "schema": 1, "source": "tensorrt", "runs": 10, "layers": layers, "total_ms": None, "warnings": [],
        **changed,
    }  # fmt: skip


def parsed(value):
    return LayerProfileFile.parse(json.dumps(value), "net.layers.json")


MODEL = ModelRecord(
    name="net", sha256="0" * 64, file_sha256="0" * 64, opset=13, domains={}, ir_version=8, producer="",
    inputs=(TensorRecord(name="image", type="float32", shape=(1, 3, 8, 8)),),
    outputs=(TensorRecord(name="y", type="float32", shape=(1, None)),), nodes=1, operators={"Conv": 1}, other_operators={},
    parameters=9, macs=None, size_bytes=100, precision="fp32", batch=1, changes=(),
)  # fmt: skip


def record(layers, *, precision="fp16", groups=None, source="tensorrt", median_ms=None, **latency):
    sum_ms = sum(each["times_ms"][0] for each in layers)
    return profile_record(
        parsed(layer_file(layers, source=source)), measured(median_ms or sum_ms, spread=0.001, **latency),
        model=MODEL, host="nano", source=source, precision=precision, fingerprint={}, simulated=False, groups=groups,
    )  # fmt: skip


def kinds(found):
    return [finding.kind for finding in found.findings]


def of_kind(found, kind):
    (finding,) = [finding for finding in found.findings if finding.kind == kind]
    return finding


EVEN = [layer(name, 1.0) for name in "abcdefgh"]


def test_shares_are_of_the_sum_of_layers():
    found = record([layer("a", 1.0), layer("b", 3.0)])

    assert [each.share for each in found.layers] == [0.25, 0.75]
    assert (found.layers_sum_ms, found.layers[0].spread) == (4.0, 0.0)
    assert found.layers_ratio == pytest.approx(4 / found.measured.median.latency_ms)


def test_a_model_without_trouble_has_only_its_largest_layers():
    assert kinds(record(EVEN)) == ["top-layers"]
    assert kinds(record(EVEN[:3])) == []


def test_reformats_count_from_a_tenth_of_the_time():
    reformat = {"is_reformat": True, "type": "Reformat"}

    assert "reformats" not in kinds(record([*EVEN, layer("r", 0.8, **reformat)]))
    finding = of_kind(record([*EVEN, layer("r", 1.0, **reformat)]), "reformats")
    assert finding.share == pytest.approx(1 / 9)
    assert finding.layers == ("r",)


def test_a_launch_bound_network_is_advised_a_cuda_graph():
    assert "launch-bound" not in kinds(record(EVEN, enqueue_ms=7.0, gpu_ms=8.0))
    finding = of_kind(record(EVEN, enqueue_ms=7.4, gpu_ms=8.0), "launch-bound")
    assert "--cuda-graph" in finding.remedy


def test_layers_that_fell_back_are_named():
    found = record([*EVEN, layer("softmax", 1.0, precision="fp32")])

    finding = of_kind(found, "fallback")
    assert "1 of 9 layers run in fp32, 11.1% of the sum" in finding.text
    assert "fallback" not in kinds(record([*EVEN, layer("softmax", 1.0, precision="fp32")], precision="fp32"))


def test_channels_that_do_not_fill_a_tile_are_named_on_a_gpu():
    odd = layer("odd", 1.0, inputs=[tensor(1, 30, 8, 8)], outputs=[tensor(1, 64, 8, 8)])
    even = layer("even", 1.0, inputs=[tensor(1, 64, 8, 8)], outputs=[tensor(1, 64, 8, 8)])
    first = layer("first", 1.0, inputs=[tensor(1, 3, 8, 8)], outputs=[tensor(1, 20, 8, 8)])
    deep = layer("deep", 1.0, inputs=[tensor(1, 30, 8, 8)], outputs=[tensor(1, 30, 8, 8)])
    layers, groups = [odd, even, first, deep, *EVEN], {"odd": 1, "even": 1, "first": 1, "deep": 30}

    finding = of_kind(record(layers, groups=groups), "tile")

    assert finding.layers == ("odd",)
    assert "30 to 64 channels, 6% of the tile is empty" in finding.text  # 1 - 30/32
    assert "tile" not in kinds(record(layers, groups=groups, source="onnxruntime"))


def test_depthwise_convolutions_in_int8_are_named():
    deep = layer("deep", 1.0, precision="int8", inputs=[tensor(1, 32, 8, 8)], outputs=[tensor(1, 32, 8, 8)])

    found = record([deep, *EVEN], groups={"deep": 32}, precision="int8")

    assert of_kind(found, "depthwise-int8").layers == ("deep",)


def test_a_layer_that_takes_a_quarter_is_named():
    finding = of_kind(record([*EVEN, layer("big", 4.0)]), "dominant")

    assert finding.layers == ("big",)
    assert "33.3%" in finding.text and "66.7%" in finding.text


@pytest.mark.parametrize(("median_ms", "expected"), [(6.0, "sum-above"), (12.0, "sum-below"), (8.2, None)])
def test_a_sum_far_from_the_inference_is_explained(median_ms, expected):
    found = [kind for kind in kinds(record(EVEN, median_ms=median_ms)) if kind.startswith("sum")]

    assert found == ([expected] if expected else [])


def test_findings_depend_on_the_record_alone():
    found = record([*EVEN, layer("big", 4.0)])

    assert find(found) == found.findings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"runs": 9}, "has 10 times, there are 9 runs"),
        ({"total_ms": [1.0]}, "total_ms has 1 times"),
        ({"source": "other"}, "source"),
        ({"layers": [layer("a", -1.0)]}, "greater than or equal to 0"),
        ({"more": 1}, "more: unknown field"),
    ],
)
def test_a_file_of_layers_that_contradicts_itself_is_refused(changed, message):
    with pytest.raises(RecordError, match=message):
        parsed(layer_file(**{"layers": EVEN, **changed}))


def test_a_damaged_file_of_layers_is_read_or_refused(tmp_path):
    path = tmp_path / "net.layers.json"
    whole = json.loads(json.dumps(layer_file([layer("a", 1.0, inputs=[tensor(1, 2)]), *EVEN[:2]], total_ms=[4.0] * 10)))
    refused = 0
    for seed in range(300):
        path.write_bytes(mutated_json(whole, random.Random(seed)))
        try:
            found = read_layers(path)
        except RecordError:
            refused += 1
        else:
            assert profile_record(
                found, measured(), model=MODEL, host="nano", source="tensorrt", precision="fp16", fingerprint={}, simulated=False
            ).layers is not None  # fmt: skip
    assert 100 < refused < 300
