"""Virtual boards: the real agent, on a folder of system files, with a simulated engine."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import devices
import luts
from devices.virtual import NAMES
from lightnas_edge import graph
from lightnas_edge.errors import FingerprintError
from lightnas_edge.measuring import (
    MeasurementProtocol,
    Settings,
    measure,
    sample_architectures,
    write_profile_job,
    write_sample_job,
    write_verify_job,
)
from lightnas_edge.space import load_space
from profiler import journal

SPACE = load_space("tiny")
QUICK = MeasurementProtocol(rounds=4, samples_per_visit=3, min_sample_ms=1.0, extra_rounds=0)


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    return lambda name="jetson-agx-xavier": devices.connect(f"virtual:{name}")


def profile(connection, folder, **changes):
    settings = Settings(**{"backend": connection.backend, "precision": "fp16", "protocol": QUICK} | changes)
    operators = SPACE.shaped_operators()[::6]
    job = write_profile_job(folder / "job", SPACE, settings, operators=operators)
    return measure(connection, job, folder / "table.lut.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_knows_each_board_and_its_total_rail(board, name):
    connection = board(name)

    found = devices.probe(connection).to_json()

    catalogue = json.loads((Path(devices.__file__).parent / "catalog" / f"{name}.json").read_text())
    assert found["fingerprint"]["board"] == f"virtual:{name}" and found["fingerprint"]["simulated"]
    assert found["board"]["name"] == name and found["board"]["module"] and found["board"]["jetpack"]
    assert found["board"]["power_mode"]["id"] == 0
    assert found["energy"]["available"] and found["energy"]["sensor"]["total"] == catalogue["power"]["total"]
    drivers = {"jetson-nano": "ina3221x", "jetson-tx2": "ina3221x", "jetson-agx-thor": "ina238"}
    assert found["energy"]["sensor"]["driver"] == drivers.get(name, "ina3221")
    assert found["missing_sensors"] == [] and found["error"] is None
    assert found["state"]["temperature_c"] < 60 and found["state"]["throttled_by"] == []


def test_an_unknown_virtual_board_is_a_usage_error_that_names_the_boards(board):
    with pytest.raises(devices.InventoryError, match="no virtual board") as refusal:
        board("jetson-tk1")

    assert refusal.value.exit_code == 2
    assert "virtual:jetson-nano" in refusal.value.hint


def test_what_it_yields_is_marked_simulated(board, tmp_path):
    lut = profile(board(), tmp_path)

    assert lut.simulated and lut.header.simulated and lut.fingerprint["simulated"]
    assert lut.fingerprint["board"] == "virtual:jetson-agx-xavier"


def test_enqueue_and_gpu_time_stand_in_every_visit_apart_from_the_latency(board, tmp_path):
    lut = profile(board(), tmp_path)

    assert all(visit.enqueue_ms > 0 for visit in lut.visits)
    frame = lut.to_frame()
    assert (frame["gpu_ms"] < frame["latency_ms"]).all()  # the medians: single visits have noise


def test_a_visit_waits_until_the_clock_has_risen_and_records_the_memorys(board, tmp_path):
    """The board idles at its lowest clock before the first visit, and the governor takes 0.14 s to the highest."""
    lut = profile(board(), tmp_path)

    assert lut.visits[0].before.gpu_mhz == pytest.approx(114.8)
    assert {visit.after.gpu_mhz for visit in lut.visits} == {1377.0}
    assert {visit.warnings for visit in lut.visits} == {()}
    assert {visit.after.emc_mhz for visit in lut.visits} == {1600.0}


def heat(connection, **changes):
    path = connection.root / "virtual.json"
    spec = json.loads(path.read_text())
    path.write_text(json.dumps(spec | {"thermal": spec["thermal"] | changes}))


def test_a_clock_that_stays_below_the_modes_maximum_marks_every_visit(board, tmp_path):
    connection = board()
    heat(connection, trip_c=20.0)

    for visit in profile(connection, tmp_path).visits:
        assert any("below the mode's maximum: 115 of 1377 MHz" in warning for warning in visit.warnings)
        assert not any("ramping" in warning for warning in visit.warnings)


def test_a_clock_that_heat_keeps_moving_marks_its_visits_as_ramping(board, tmp_path):
    """Heat that follows within 50 ms and by 30 degrees per watt leaves no step of the clock stable."""
    connection = board()
    heat(connection, trip_c=250.0, tau_s=0.05, c_per_w=30.0)

    visits = profile(connection, tmp_path).visits

    assert any("GPU clock was ramping" in warning for visit in visits for warning in visit.warnings)


def test_it_cannot_be_mixed_with_what_was_measured(board, tmp_path):
    lut = profile(board(), tmp_path)
    measured = tmp_path / "measured.lut.jsonl"
    lines = lut.path.read_bytes().splitlines(keepends=True)
    header = journal.decode(lines[0].rstrip(b"\n"))
    del header["crc32"]
    header["fingerprint"]["simulated"] = header["simulated"] = False
    measured.write_bytes(journal.encode(header) + b"".join(lines[1:]))

    with pytest.raises(FingerprintError, match="simulated"):
        luts.merge([lut, luts.read(measured)])


def test_a_fresh_board_gives_the_same_numbers_again(board, tmp_path, monkeypatch):
    tables = []
    for name in "ab":
        monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / name))
        tables.append(profile(devices.connect("virtual:jetson-nano"), tmp_path / name))

    assert [visit.samples_ms for visit in tables[0].visits] == [visit.samples_ms for visit in tables[1].visits]


def test_a_board_continues_in_time_so_a_second_campaign_differs(board, tmp_path):
    first = profile(board(), tmp_path / "a")
    connection = board()
    settings = Settings(backend="simulated", precision="fp32", protocol=QUICK)
    job = write_profile_job(tmp_path / "b", SPACE, settings, operators=SPACE.shaped_operators()[::6])
    second = measure(connection, job, tmp_path / "b.lut.jsonl")

    key = next(iter(first.entries))
    assert first.latency_ms(key) < second.latency_ms(key)  # half precision is faster


def test_int8_is_refused_where_the_board_has_none(board, tmp_path):
    with pytest.raises(devices.AgentFailedError, match="virtual:jetson-nano has no fast int8") as refusal:
        profile(board("jetson-nano"), tmp_path, precision="int8")
    assert "--precision fp16" in refusal.value.hint


def test_a_network_costs_less_than_the_sum_of_its_operators(board, tmp_path):
    """Fusion and one synchronisation instead of many: what a predictor has to learn."""
    connection = board()
    settings = Settings(backend="simulated", precision="fp16", protocol=QUICK)
    (network,) = sample_architectures(SPACE, 1, 0)
    lut = measure(connection, write_profile_job(tmp_path / "p", SPACE, settings), tmp_path / "p.lut.jsonl")
    nets = measure(connection, write_sample_job(tmp_path / "s", SPACE, settings, [network]), tmp_path / "s.lut.jsonl")

    total = sum(
        lut.latency_ms(SPACE.at(layer, operator).key) for layer, operator in enumerate(network.operators)
    ) + sum(lut.latency_ms(shaped.key) for shaped in SPACE.fixed)
    (measured,) = (entry.latency_ms for entry in nets.networks.values())
    assert 0.2 * total < measured < total


@pytest.mark.parametrize(("precision", "differs"), [("fp32", False), ("fp16", True)])
def test_an_evaluation_yields_real_outputs_in_the_numbers_of_the_precision(board, tmp_path, precision, differs):
    """The graph is in float32, of which the builder's flag makes half precision."""
    connection = board("jetson-nano")
    settings = Settings(backend="simulated", precision=precision, protocol=QUICK)
    (network,) = sample_architectures(SPACE, 1, 0)
    model = graph.model_bytes(graph.network_model(SPACE, network))
    images = np.random.default_rng(0).normal(size=(3, 3, SPACE.input_size, SPACE.input_size)).astype(np.float32)
    job = write_verify_job(tmp_path / "v", SPACE, settings, network, model, inputs=images, extra_operators=[])

    measure(connection, job, tmp_path / "v.lut.jsonl", outputs=tmp_path / "outputs")

    session = onnxruntime.InferenceSession(model)
    wanted = np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])
    (path,) = (tmp_path / "outputs").iterdir()
    found = np.fromfile(path, "<f4")
    assert np.allclose(found, wanted.ravel(), atol=1e-5) != differs
    assert np.abs(found - wanted.ravel()).max() < 0.02 * np.abs(wanted).max()
    assert np.array_equal(found, found.astype(np.float16)) == differs


def test_a_hot_room_makes_it_throttle_and_the_visits_say_so(board, tmp_path):
    connection = board()
    facts = json.loads((connection.root / "virtual.json").read_text())
    facts["thermal"]["ambient_c"] = 96.0
    (connection.root / "virtual.json").write_text(json.dumps(facts))

    lut = profile(connection, tmp_path)

    warnings = {warning for visit in lut.visits for warning in visit.warnings}
    assert "throttled for heat by gpu-throttle; cool the board" in warnings


def test_what_varied_is_measured_again_after_the_board_has_cooled(board, tmp_path):
    """Two minutes of work warm the board; before each extra visit it rests, and starts cooler than it ended."""
    protocol = MeasurementProtocol(
        rounds=8, samples_per_visit=3, min_sample_ms=3000.0, extra_rounds=2, spread_limit=1e-9
    )
    settings = Settings(backend="simulated", precision="fp16", batch=64, protocol=protocol)
    job = write_profile_job(tmp_path / "job", SPACE, settings, operators=[])
    manifest = json.loads((job.folder / "manifest.json").read_text())
    manifest["measurements"] = manifest["measurements"][-2:]
    (job.folder / "manifest.json").write_text(json.dumps(manifest))
    campaign = devices.Campaign(board("jetson-agx-xavier"), job.folder)

    campaign.start()
    campaign.follow(tmp_path / "table.lut.jsonl")

    visits = luts.read(tmp_path / "table.lut.jsonl").visits
    rises = [
        (now.round >= 8, now.before.temperature_c - last.after.temperature_c)
        for last, now in itertools.pairwise(visits)
    ]
    assert visits[15].after.temperature_c > visits[0].after.temperature_c + 5
    assert [round_ >= 8 for round_ in (visit.round for visit in visits)].count(True) == 4
    cooled = [-rise for extra, rise in rises if extra]
    assert min(cooled) > 1
    step_c = 0.1  # of the sensor: at the end the board is as warm as this load makes it, and may lose one step
    assert all(rise > -1.5 * step_c for extra, rise in rises if not extra)


def test_a_table_of_int8_names_the_dialect_of_its_graphs(board, tmp_path):
    connection = board()
    settings = Settings(backend=connection.backend, precision="int8", protocol=MeasurementProtocol(rounds=1))
    job = write_profile_job(tmp_path / "job", SPACE, settings, operators=[SPACE.stem])

    assert measure(connection, job, tmp_path / "t.lut.jsonl").fingerprint["dialect"] == "tensorrt"


@pytest.mark.parametrize("place", ["my projects/venv", "it's/here"])
def test_the_tools_run_by_a_python_whose_path_is_awkward_and_outlive_it(tmp_path, board, monkeypatch, place):
    python = tmp_path / place / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    first = board()
    mode = devices.probe(first).fingerprint["power_mode"]
    assert mode is not None

    monkeypatch.undo()
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    python.unlink()

    assert devices.probe(board()).fingerprint["power_mode"] == mode


def test_two_first_commands_make_one_board(tmp_path):
    """The later one must not take the home away in which the first has begun a job."""
    script = "import devices, os; c = devices.connect('virtual:jetson-orin-nano'); os.makedirs(c.home() + '/' + str(os.getpid()))"
    environment = {**os.environ, "LIGHTNAS_EDGE_HOME": str(tmp_path / "home")}
    commands = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(4)]

    assert [command.wait(120) for command in commands] == [0] * 4
    (home,) = (tmp_path / "home/virtual").glob("*/home/.lightnas-edge")
    assert {entry.name for entry in home.iterdir()} == {str(command.pid) for command in commands}
