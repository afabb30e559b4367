"""What `lightnas-edge probe` prints: the board, what is missing, and how to get it."""

import copy
import json

import pytest

import devices
from lightnas_edge.cli.probe import describe, lacking
from tests.cli.commands import run


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """What the agent found on a virtual board."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path_factory.mktemp("home")))
        return devices.probe(devices.connect("virtual:jetson-nano")).to_json()


@pytest.fixture
def found(probed):
    return copy.deepcopy(probed)


def test_a_board_is_described_in_a_few_lines(found):
    lines = list(describe(found))

    assert lines[0] == "Jetson Nano developer kit (p3448-0000) (simulated: no number is measured)"
    assert lines[1].startswith("  system     JetPack 4.6.6, L4T 32.7.6, Ubuntu 18.04 LTS, Python 3.")
    assert (
        "power mode MAXN (0), clocks floating, CPU 1479 MHz, GPU 77 MHz, maximum 25 C (CPU 25 C, GPU 25 C)" in lines[3]
    )
    assert lines[5] == "  energy     ina3221: total POM_5V_IN, and 2 rails inside it; step 40 mW, low-pass 0.054 s"
    assert lines[6] == "  sudo       without a password; for --lock-clocks and --power-mode"


def test_floating_clocks_come_with_their_remedy(found):
    assert [lack.remedy for lack in lacking(found)] == ["measure with --lock-clocks"]

    found["fingerprint"]["clocks"] = "locked"

    assert list(describe(found))[-1] == "nothing is missing"


def test_an_engine_that_is_not_there_is_the_first_thing_missing(found):
    found.update(
        runtime=None, error={"message": "no module named tensorrt", "remedy": "apt install python3-libnvinfer"}
    )

    lines = list(describe(found))

    assert "  engine     simulated: not available" in lines
    assert lines[lines.index("missing:") + 1 :][:2] == [
        "  - latency: no module named tensorrt",
        "      apt install python3-libnvinfer",
    ]


def test_rails_that_cannot_be_read_are_named_with_what_to_do(found):
    rail = {"sensor": "ina3221", "rail": "POM_5V_IN", "reason": "Permission denied", "remedy": "sudo chmod a+r FILE"}
    found["energy"] = {"available": False, "reason": "ina3221 POM_5V_IN: Permission denied", "sensor": None}
    found["missing_sensors"] = [rail]

    lines = list(describe(found))

    assert "  energy     not available" in lines
    assert "  - energy by ina3221 POM_5V_IN: Permission denied" in lines
    assert "      sudo chmod a+r FILE" in lines


def test_a_sudo_that_asks_comes_with_both_remedies(found):
    found["tools"]["sudo_without_password"] = False

    (lack,) = [lack for lack in lacking(found) if "password" in lack.what]

    assert "--ask-sudo-password" in lack.remedy


def test_a_disk_that_is_nearly_full_is_reported(found):
    found["disk_free_mb"] = 120.0

    (lack,) = [lack for lack in lacking(found) if "disk" in lack.what]

    assert lack.what == "room on the disk: 120 MB are free"
    assert "boards clean" in lack.remedy


def test_json_lists_what_is_missing_too(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path))

    answer = json.loads(run("probe", "--host", "virtual:jetson-tx2", "--json").out)

    assert answer["missing"] == [
        {
            "what": "steady clocks: the clocks float, so the speed of short work varies",
            "remedy": "measure with --lock-clocks",
        }
    ]
    assert answer["temperatures_c"]
    assert answer["disk_free_mb"] > 0


def test_a_bare_machine_yields_unknowns_not_zeros(found):
    found["board"] = dict.fromkeys(found["board"]) | {"name": "generic-linux"}
    found["state"] = dict.fromkeys(found["state"])
    found |= {"temperatures_c": {}, "disk_free_mb": None}
    found["fingerprint"] |= {"clocks": None, "simulated": False}
    found["tools"] = dict.fromkeys(found["tools"])

    lines = list(describe(found))

    assert lines[0] == "Jetson Nano"  # the description's title
    assert lines[3] == "  state      clocks unknown, temperature unknown"
    assert "  - clocks: they cannot be read" in lines
