"""No answer and no file of a board ends in a traceback: each is a record, or an error that names its faults."""

import json
import random

import pytest

import devices
from devices.catalogue import load_catalogue
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.records.board import BoardModel, ProbeResult, SetupReport
from lightnas_edge.records.job import AgentFailure, JobManifest, LockHolder, Status
from lightnas_edge.space import load_space
from tests.luts.test_hostile_journals import change_a_value

MUTANTS = 400  # of every kind
MODE = {"id": 0, "name": "MAXN"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """One sound record of every kind, as its writer writes it."""
    folder = tmp_path_factory.mktemp("job")
    space = load_space("tiny")
    settings = Settings(protocol=MeasurementProtocol(rounds=2), power_mode="MAXN", energy_rounds=2)
    write_profile_job(folder, space, settings, operators=space.shaped_operators()[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        probed = devices.probe(devices.connect("virtual:jetson-nano"))
    status = Status(
        state="running",
        session="aaaaaaaa",
        done=1,
        total=2,
        failed=0,
        key="a@1",
        round=1,
        eta_s=1.5,
        pid=7,
        boot_id="b",
        start_ticks=1,
        command="0" * 16,
        message="",
    )
    return {
        JobManifest: json.loads((folder / "manifest.json").read_text()),
        Status: status.to_json(),
        LockHolder: {"pid": 1, "boot_id": "b", "start_ticks": 1, "command": "0" * 16, "job": "0" * 16, "started": "2026-11-23T19:00:00Z"},
        AgentFailure: {"kind": "error", "schema": 1, "code": "locked", "message": "m", "remedy": "r", "exit_code": 75},
        ProbeResult: probed.to_json(),
        SetupReport: {
            "kind": "setup", "schema": 1, "before": {"power_mode": MODE, "clocks": "floating"},
            "now": {"power_mode": MODE, "clocks": "locked"},
        },
        BoardModel: load_catalogue()["jetson-nano"].to_json(),
    }  # fmt: skip


KINDS = [JobManifest, Status, LockHolder, AgentFailure, ProbeResult, SetupReport, BoardModel]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_record_is_read_and_written_unchanged(samples, kind):
    record = kind.parse(json.dumps(samples[kind]), "sample")

    written = record.to_json()
    assert {name: written[name] for name in samples[kind] if name != "exit_code"} == {
        name: value for name, value in samples[kind].items() if name != "exit_code"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_record_is_read_or_refused(samples, kind):
    generator = random.Random(0)
    for _ in range(MUTANTS):
        record = json.loads(json.dumps(samples[kind]))
        for _ in range(generator.choice([1, 1, 3, 10])):
            change_a_value(generator, record)
        content = json.dumps(record).encode()
        if generator.random() < 0.2:
            at = generator.randrange(len(content))
            content = content[:at] + bytes([generator.randrange(256)]) * generator.choice([0, 1, 3])
        try:
            json.dumps(kind.parse(content, "sample").to_json(), allow_nan=False).encode("utf-8")
        except LightnasEdgeError as error:
            assert str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"[" * 200_000, b"\xff\xfe{}", b"NaN", b"1e999", b'"\\ud800"', b"9" * 6000])
def test_content_that_is_no_record_is_refused_in_a_sentence(kind, content):
    with pytest.raises(LightnasEdgeError, match=r"^sample "):
        kind.parse(content, "sample")
