"""The report of one profiled model, and the commands that write it."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lightnas_edge.profiles import import_trtexec
from lightnas_edge.records.model_profile import ModelProfileRecord
from lightnas_edge.report.model_page import write_model_report
from tests.cli.commands import run

DATA = Path(__file__).parents[1] / "profiles" / "data"
VOID = {"meta", "br", "link", "use", "path", "rect", "input", "img", "hr"}


class Page(HTMLParser):
    """Whether tags are balanced; text, tables without a head or caption, references out of the page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags, self.outside = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [
            value for name, value in attrs if name in ("src", "href") and re.match(r"https?:|//", value or "")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def record():
    return import_trtexec([DATA / f"resnet18.{kind}.json" for kind in ("profile", "graph", "metadata")])


@pytest.fixture
def model(tmp_path):
    """Five nodes with an open batch axis."""
    weight = numpy_helper.from_array(np.full((8, 3, 3, 3), 0.1, "f"), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Softmax", ["f"], ["y"], name="softmax"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])], [weight],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_the_page_stands_alone_and_begins_with_the_result(record, tmp_path):
    files = write_model_report(record, tmp_path)

    page = Page(files.html.read_text())
    text = " ".join(" ".join(page.text).split())
    assert page.outside == [] and "script" not in page.tags
    assert text.index("median 0.277 ms") < text.index("The three layers to change first") < text.index("All layers")
    assert page.tags.count("caption") == page.tags.count("table") == 3
    assert "svg" in page.tags and 'aria-label="Time of the' in files.html.read_text()
    assert "not of the inference" in text
    assert "SIMULATED" not in text


def test_json_and_csv_hold_every_layer(record, tmp_path):
    files = write_model_report(record, tmp_path)

    assert ModelProfileRecord.load(files.json) == record
    rows = rows_of(files.csv)
    assert [row["layer"] for row in rows] == [layer.name for layer in record.layers]
    assert rows[1]["onnx_nodes"] == "/conv1/Conv; /relu/Relu"
    assert float(rows[1]["median_ms"]) == 0.028672
    assert rows[1]["outputs"] == "1x64x112x112"


def test_text_of_a_file_becomes_no_markup_and_no_formula(record, tmp_path):
    hostile = record.layers[1].model_copy(update={"name": "=1+1|<script>alert(1)</script>"})
    changed = record.model_copy(update={"layers": (hostile, *record.layers[2:])})

    files = write_model_report(changed, tmp_path)

    page = files.html.read_text()
    assert "script" not in Page(page).tags and "&lt;script&gt;" in page
    assert "<script>" not in files.markdown.read_text()
    assert rows_of(files.csv)[0]["layer"].startswith("'=")


def test_layers_without_times_are_listed(tmp_path):
    record = import_trtexec([DATA / "efficientdet-lite3_fp16.log"])

    files = write_model_report(record, tmp_path)

    text = files.html.read_text()
    Page(text)
    assert "No times are known" in text and "launch-bound" in text
    assert "187.4 ms" in text
    assert "svg" not in Page(text).tags


def test_trtexec_is_imported_by_content(tmp_path):
    answer = run("import", DATA / "resnet18.graph.json", DATA / "resnet18.profile.json", "--out", tmp_path / "report")

    assert answer.code == 0, answer.err
    assert answer.out.startswith("resnet18: sum of the layers")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        f"profile.{end}" for end in ("html", "json", "csv", "md")
    }


def test_an_import_that_cannot_be_used_ends_without_a_traceback(tmp_path):
    (tmp_path / "x.json").write_text("[1, 2]")

    answer = run("import", tmp_path / "x.json", DATA / "resnet18.graph.json")

    assert answer.code == 1
    assert "x.json is no file of trtexec" in answer.err


def test_a_model_is_profiled_on_this_machine(model, tmp_path, agent_home):
    out = tmp_path / "report"

    answer = run("profile", "--model", model, "--host", "localhost", "--rounds", "3", "--out", out, "--json")

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["kind"], found["source"], found["simulated"]) == ("model-profile", "onnxruntime", False)
    assert found["model"]["inputs"][0]["shape"] == [1, 3, 32, 32]
    assert found["measured"]["rounds"] == 3
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert {"conv", "softmax"} <= {node for layer in found["layers"] for node in layer["onnx_nodes"]}
    Page((out / "profile.html").read_text())


def test_every_number_of_a_virtual_board_is_marked(model, tmp_path, agent_home):
    out = tmp_path / "report"

    answer = run(
        "profile", "--model", model, "--host", "virtual:jetson-orin-nano", "--precision", "fp16", "--rounds", "3", "--out", out
    )  # fmt: skip

    assert answer.code == 0, answer.err
    assert answer.out.startswith("net: SIMULATED: median")
    rows = re.findall(r"<tr>.*?</tr>", (out / "profile.html").read_text(), re.DOTALL)
    timed = [row for row in rows if re.search(r"\d ms", row)]
    assert len(timed) > 10
    assert all("SIMULATED" in row for row in timed)
    table = (out / "profile.md").read_text().splitlines()
    assert all("SIMULATED" in line for line in table if re.search(r"\d ms", line))
    assert all(row["simulated"] == "SIMULATED" for row in rows_of(out / "profile.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "takes a search space with --space, or an ONNX file with --model"),
        (("--space", "tiny", "--model", "net.onnx"), "takes a search space"),
        (("--space", "tiny", "--shape", "1x3x8x8"), "--shape: only with --model"),
        (("--model", "net.onnx", "--batch", "2"), "--batch: only with --space"),
        (("--model", "net.onnx", "--only", "stem"), "--only: only with --space"),
    ],
)
def test_options_of_the_other_form_are_refused(options, message):
    answer = run("profile", *options)

    assert answer.code == 2
    assert message in answer.err
