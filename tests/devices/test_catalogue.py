"""The board catalogue: every file is sound, sourced, and identifies its board alone."""

import json
import re
from importlib import resources

import pytest

from devices.catalogue import CatalogueError, load_catalogue, match
from lightnas_edge.deploy.targets import opset_for
from profiler import board as agent_board
from profiler.power import find_sensors
from profiler.system import System
from tests.profiler.power import boards as sysfs

FILES = sorted((resources.files("devices") / "catalog").iterdir(), key=lambda file: file.name)
BOARDS = load_catalogue()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_record_holds_everything_of_its_file(file):
    assert BOARDS[file.name.removesuffix(".json")].to_json() == json.loads(file.read_text())


def test_all_promised_boards_are_there():
    assert list(BOARDS) == [
        "generic-linux",
        "jetson-agx-orin",
        "jetson-agx-thor",
        "jetson-agx-xavier",
        "jetson-nano",
        "jetson-orin-nano",
        "jetson-orin-nx",
        "jetson-tx2",
        "jetson-tx2-nx",
        "jetson-xavier-nx",
    ]


# What device trees say. The entries were found in public logs and kernel headers, see docs/boards.md.
TREES = [
    ("jetson-nano", ["nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"]),
    ("jetson-tx2", ["nvidia,p2597-0000+p3310-1000", "nvidia,tegra186"]),
    ("jetson-tx2", ["nvidia,quill", "nvidia,p2597-0000+p3310-1000", "nvidia,tegra186"]),
    ("jetson-tx2-nx", ["nvidia,p3509-0000+p3636-0001", "nvidia,tegra186"]),
    ("jetson-xavier-nx", ["nvidia,p3449-0000+p3668-0000", "nvidia,tegra194"]),
    ("jetson-agx-xavier", ["nvidia,galen", "nvidia,jetson-xavier", "nvidia,p2822-0000+p2888-0001", "nvidia,tegra194"]),
    ("jetson-agx-orin", ["nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"]),
    ("jetson-orin-nx", ["nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"]),
    ("jetson-orin-nano", ["nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"]),
    ("jetson-orin-nano", ["nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"]),
    ("jetson-orin-nx", ["nvidia,p3768-0000+p3767-0000-super", "nvidia,tegra234"]),
    ("jetson-agx-thor", ["nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"]),
    # Carriers of other makers, with revisions, and in another order.
    ("jetson-xavier-nx", ["nvidia,p3509-0000-a00+p3668-0000-a01", "nvidia,tegra194"]),
    ("jetson-xavier-nx", ["nvidia,jetson-xavier-nx", "nvidia,jetson-xavier", "nvidia,p3668-0001", "nvidia,tegra194"]),
    ("jetson-orin-nx", ["forecr,dsboard-ornx+p3767-0001", "nvidia,tegra234"]),
    ("jetson-agx-orin", ["antmicro,job+p3701-0004-b01", "nvidia,tegra234"]),
    ("jetson-tx2-nx", ["nvidia,quill", "nvidia,p3509-0000-b00+p3636-0001-a00", "nvidia,tegra186"]),
]


@pytest.mark.parametrize("name, compatible", TREES)
def test_a_board_is_known_by_its_device_tree(name, compatible):
    assert match(compatible, "a carrier of somebody else", BOARDS) is BOARDS[name]


@pytest.mark.parametrize("name, compatible", TREES)
def test_the_agent_knows_it_too_with_its_module(name, compatible, tmp_path):
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree/compatible").write_text("\0".join(compatible) + "\0")
    (tmp_path / "device-tree/model").write_text("a carrier of somebody else\0")
    catalogue = [found.to_json() for found in BOARDS.values()]

    found = agent_board.identify(catalogue, str(tmp_path))

    assert found["name"] == name
    assert agent_board.describe(found, System(str(tmp_path)))["module"] is None  # it reads proc below that root
    (tmp_path / "proc").symlink_to(tmp_path)
    has_number = any(part["part"] in " ".join(compatible) for part in found["modules"])
    assert (agent_board.describe(found, System(str(tmp_path)))["module"] is not None) == has_number


def test_a_longer_number_is_another_part():
    assert match(["nvidia,p36681-0000"], None, BOARDS) is None


def test_boards_of_one_chip_differ_by_part_number():
    found = match(["nvidia,p3768-0000+p3767-0001"], None, BOARDS)

    assert found.module(["nvidia,p3768-0000+p3767-0001"]).dla_engines == 1  # Orin NX 8GB; the 16GB has two


MODELS = [
    ("jetson-nano", "NVIDIA Jetson Nano Developer Kit\0"),
    ("jetson-nano", "NVIDIA Jetson Nano 2GB Developer Kit"),
    ("jetson-tx2", "quill"),
    ("jetson-tx2-nx", "NVIDIA Jetson TX2 NX Developer Kit"),
    ("jetson-xavier-nx", "NVIDIA Jetson Xavier NX Developer Kit"),
    ("jetson-agx-xavier", "Jetson-AGX"),
    ("jetson-agx-xavier", "NVIDIA Jetson AGX Xavier Developer Kit"),
    ("jetson-orin-nano", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"),
    ("jetson-orin-nx", "NVIDIA Orin NX Developer Kit"),
    ("jetson-agx-orin", "NVIDIA Jetson AGX Orin Developer Kit"),
    ("jetson-agx-thor", "NVIDIA Jetson AGX Thor Developer Kit"),
]


@pytest.mark.parametrize("name, model", MODELS)
def test_the_model_helps_where_the_list_says_nothing_and_fits_one_board_only(name, model):
    fitting = [
        board.name
        for board in BOARDS.values()
        if (pattern := board.identity.device_tree_model) and re.search(pattern, model.rstrip("\0"))
    ]

    assert fitting == [name]
    assert match([], model, BOARDS) is BOARDS[name]


def test_another_machine_is_no_board():
    assert match(["raspberrypi,4-model-b"], "Raspberry Pi 4", BOARDS) is None
    assert match([], None, BOARDS) is None


def test_releases_that_boards_share_are_equal():
    seen = {}
    for board in BOARDS.values():
        for software in board.software:
            assert seen.setdefault(software.l4t, software) == software, f"{board.name}: L4T {software.l4t}"
    assert BOARDS["jetson-nano"].release("32.6.1").tensorrt == "8.0.1"
    assert BOARDS["jetson-nano"].release("36.4.3") is None  # JetPack 6 is for Orin only


def test_opsets_are_never_above_what_is_written_for_that_tensorrt_when_it_must_be_read():
    """The exporter may write less than a parser reads, never more."""
    for board in BOARDS.values():
        for software in board.software:
            if software.onnx_opset is not None:
                version = ".".join(software.tensorrt.split(".")[:2])
                assert opset_for(f"tensorrt-{version}") <= software.onnx_opset


def test_totals_follow_the_boards_rule():
    assert BOARDS["jetson-nano"].power.total == ("POM_5V_IN",)
    assert BOARDS["jetson-agx-xavier"].power.total == ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
    assert BOARDS["jetson-agx-orin"].power.total == (
        "VDD_GPU_SOC",
        "VDD_CPU_CV",
        "VIN_SYS_5V0",
    )  # without VDDQ_VDD2_1V8AO


def test_a_description_is_all_the_agent_needs_to_read_its_rails(tmp_path):
    sysfs.agx_orin(tmp_path)

    found = find_sensors(str(tmp_path), BOARDS["jetson-agx-orin"].to_json())

    assert found.missing == []
    assert found.best.total == BOARDS["jetson-agx-orin"].power.total


def test_recorded_logs_name_the_rails_of_the_catalogue(shared_data):
    from profiler.power.tegrastats import parse_log

    for folder, name in (
        ("tx2", "jetson-tx2"),
        ("xaviernx_8gb", "jetson-xavier-nx"),
        ("xavieragx_16gb", "jetson-agx-xavier"),
        ("orin_nano", "jetson-orin-nano"),
        ("orinnx_16gb", "jetson-orin-nx"),
        ("orinagx_64gb", "jetson-agx-orin"),
        ("../nano_convnets/tegrastats", "jetson-nano"),
    ):
        path = sorted((shared_data / "tegrastats" / folder).iterdir())[0]
        records, _ = parse_log(path.read_text().splitlines())
        described = {
            rail.label for rail in BOARDS[name].power.rails if not rail.optional or rail.label in records[0].rails
        }
        assert described == set(records[0].rails)


def test_a_bad_file_gets_all_its_faults_in_one_message(tmp_path):
    record = BOARDS["jetson-nano"].to_json()
    record["precisions"] = ["fp8"]
    record["power"]["filter_tau_s"] = 0
    (tmp_path / "jetson-nano.json").write_text(json.dumps(record))
    (tmp_path / "other.json").write_text("{")

    with pytest.raises(CatalogueError) as raised:
        load_catalogue(tmp_path)

    message = str(raised.value)
    assert "jetson-nano.json holds 2 errors" in message
    assert "precisions[0]: should be 'fp32', 'fp16' or 'int8', found 'fp8'" in message
    assert "power.filter_tau_s: should be greater than 0, found 0" in message
    assert "other.json is not valid JSON" in message


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda r: r.pop("soc"), "soc: missing"),
        (lambda r: r.update(colour="green"), "colour: unknown field"),
        (lambda r: r.update(kind="lut"), "is not a record of kind 'board': found 'lut'"),
        (lambda r: r.update(schema=9), "has schema 9; this program reads 1"),
        (lambda r: r["modules"][0].update(dla_engines=True), "modules[0].dla_engines: should be a valid integer"),
        (lambda r: r["power"]["rails"].append(r["power"]["rails"][0]), "power.rails: label 'POM_5V_IN' appears twice"),
        (lambda r: r["power"].update(total=["VDD_IN"]), "power: total: 'VDD_IN' is none of POM_5V_IN, POM_5V_GPU"),
        (lambda r: r["identity"].update(device_tree_model="("), "identity.device_tree_model: expected a regular expr"),
        (lambda r: r["sources"]["soc"].update(trust="hearsay"), "sources.soc.trust: should be 'src', 'field', 'calc'"),
        (lambda r: r["sources"].pop("power.rails"), "sources: none for power.rails"),
    ],
)
def test_every_kind_of_fault_names_its_field(tmp_path, change, fault):
    record = BOARDS["jetson-nano"].to_json()
    change(record)
    (tmp_path / "jetson-nano.json").write_text(json.dumps(record))

    with pytest.raises(CatalogueError) as raised:
        load_catalogue(tmp_path)

    assert fault in str(raised.value)
