"""The steps of a field test: each runs one path that needs a real board, and says what it found.

A step raises what the path raises; the runner records it and continues with the next step.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import devices
import luts
from devices import Status
from lightnas_edge import graph
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.field_test.archive import PROBE, SNAPSHOT
from lightnas_edge.field_test.bench import Bench, Found, Skip, limits
from lightnas_edge.field_test.plan import Plan
from lightnas_edge.field_test.records import FieldTestError, kept, take_snapshot
from lightnas_edge.files import write_atomic, write_json
from lightnas_edge.measuring import (
    sample_architectures,
    sentinels,
    write_profile_job,
    write_sample_job,
)
from lightnas_edge.measuring.engines import why_board_lacks
from lightnas_edge.measuring.jobs import SENTINELS
from lightnas_edge.models import read_model
from lightnas_edge.records.board import ProbeResult

_KILL_ROUNDS = 200  # long enough to be interrupted in
# Ends the measuring process of the agent with this process id, by signal 9, as the out-of-memory killer does.
_KILL = """
import os, signal, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open("/proc/%s/stat" % pid) as file:
            parent = file.read().rpartition(")")[2].split()[1]
        with open("/proc/%s/cmdline" % pid, "rb") as file:
            words = file.read().split(b"\\0")
    except OSError:
        continue
    if parent == sys.argv[1] and b"worker" in words:
        os.kill(int(pid), signal.SIGKILL)
        print("ended", pid)
"""
_MODES_TRIED = 3
_VERIFIED_BUDGET = 1.5  # times the network's latency: the verdict is not what is tested
_REFERENCE_RUNS = 4
_VERIFY_ROUNDS = 12


@dataclass(frozen=True)
class Step:
    """One step. `estimate_s`: a guess for the slowest board."""

    name: str
    title: str
    estimate_s: float
    act: Callable[[Bench, Found], None]


_NEEDED = ("probe", "snapshot")  # by all others


def steps(plan: Plan) -> list[Step]:
    """The steps of a plan, in order."""
    return [step for step in _all_steps(plan) if not plan.only or step.name in (*_NEEDED, *plan.only)]


def _all_steps(plan: Plan) -> Iterator[Step]:
    rounds, table, seconds = plan.rounds, len(plan.space.shaped_operators()), plan.estimate_s
    yield Step("probe", "the board and its default engine", 20.0, _probe)
    yield Step("snapshot", "the system files that the agent reads", 10.0, _snapshot)
    for engine in dict.fromkeys(name for name, _ in plan.engines):
        if engine != plan.default:
            yield Step(f"engine-{engine}", f"the engine {engine}", 20.0, partial(_engine, engine))
    for engine, precision in plan.engines:
        yield Step(
            f"{engine}-{precision}", f"one network in {engine}, {precision}", seconds(rounds, networks=1, backend=engine),
            partial(_precision, engine, precision),
        )  # fmt: skip
    yield Step("layers", "the layers of one network", 20.0 + seconds(rounds), _layers)
    yield Step(
        "isolation",
        "a measuring process that is killed costs one visit",
        seconds(2 * _KILL_ROUNDS, operators=1),
        _isolation,
    )
    yield Step("energy", "energy of one operator", 30.0 + seconds(4, operators=1), _energy)
    yield Step("clocks", "clocks locked and restored", 30.0 + seconds(3, operators=1), _clocks)
    if not plan.quick:
        yield Step("power-mode", "another power mode, and back", 60.0 + seconds(3, operators=1), _power_mode)
    yield Step(
        "table",
        f"the table of space {plan.space.name}: {table} operators",
        seconds(table * rounds, operators=table),
        _table,
    )
    yield Step(
        "networks", f"{plan.networks} networks", seconds((SENTINELS + plan.networks) * rounds, networks=plan.networks - 1),
        _networks,
    )  # fmt: skip
    yield Step("fit", "a predictor from both", 10.0, _fit)
    yield Step("verify", "the verdict about one network", 30.0 + seconds(_VERIFY_ROUNDS), _verify)


def _probe(bench: Bench, found: Found) -> None:
    bench.probe = result = devices.probe(bench.connection)
    result.save(bench.folder / PROBE)
    found.files.append(PROBE)
    board = result.board
    bench.scrubber.learn({"host name": [board.host or ""]})
    found.add(
        f"{board.module or result.title or board.name}; L4T {board.l4t or 'unknown'}, JetPack {board.jetpack or 'unknown'}"
    )
    found.add(f"Python {result.python.version}, kernel {board.kernel or 'unknown'}")
    _keep_engine(bench, result, found)
    if result.energy.available and result.energy.sensor is not None:
        sensor = result.energy.sensor
        found.add(f"energy by {sensor.sensor}: {', '.join(sensor.rails)}; total {' + '.join(sensor.total or ())}")
    else:
        found.add(f"energy is not available: {result.energy.reason or 'no reason was given'}")
    found.add(f"clocks {result.fingerprint.get('clocks')}, power mode {result.fingerprint.get('power_mode')}")
    if result.error is not None:
        raise FieldTestError(f"{result.backend}: {result.error.message}", hint=result.error.remedy)


def _keep_engine(bench: Bench, result: ProbeResult, found: Found) -> None:
    if result.error is not None:
        bench.unavailable[result.backend] = result.error.message
        return
    version = str(result.fingerprint.get("backend_version"))
    bench.engines[result.backend] = version
    facts = {name: value for name, value in (result.runtime or {}).items() if isinstance(value, (str, int, float))}
    bench.scrubber.keep([version, *(str(value) for name, value in facts.items() if "version" in name)])
    found.add(f"{result.backend} {version}" + "".join(f", {name} {value}" for name, value in sorted(facts.items())))


def _snapshot(bench: Bench, found: Found) -> None:
    bench.before = snapshot = take_snapshot(bench.connection)
    bench.scrubber.learn(snapshot.private)
    write_atomic(bench.folder / SNAPSHOT, kept(snapshot))
    found.files.append(SNAPSHOT)
    found.add(f"{len(snapshot.files)} files, {len(snapshot.refused)} cannot be read, {len(snapshot.left_out)} left out")
    found.add(f"output of {', '.join(sorted(snapshot.tools)) or 'no tool'}")
    facts = snapshot.tegrastats
    if facts.faults:
        raise FieldTestError(f"{len(facts.faults)} lines of tegrastats are not understood: {facts.faults[0]}")
    if facts.records:
        found.add(f"{facts.records} lines of tegrastats, rails {', '.join(facts.rails) or 'none'}")


def _engine(engine: str, bench: Bench, found: Found) -> None:
    result = devices.probe(bench.connection, engine)
    file = f"probe-{engine}.json"
    result.save(bench.folder / file)
    found.files.append(file)
    _keep_engine(bench, result, found)
    if result.error is not None:
        raise Skip(result.error.message)


def _require(bench: Bench, engine: str) -> None:
    if engine not in bench.engines:
        raise Skip(f"{engine} is not available: {bench.unavailable.get(engine, 'its probe failed')}")


def _precision(engine: str, precision: str, bench: Bench, found: Found) -> None:
    _require(bench, engine)
    lacking = why_board_lacks(bench.connection, engine, precision)
    if lacking is not None:
        raise Skip(lacking)
    plan = bench.plan
    write = partial(
        write_sample_job, space=plan.space, settings=plan.settings(engine, precision), extra_operators=[],
        architectures=sample_architectures(plan.space, 1, 0),
    )  # fmt: skip
    table = bench.measure(write, f"{engine}-{precision}", found)
    _refuse_failures(table)
    (entry,) = table.networks.values()
    found.add(f"{entry.latency_ms:.3f} ms, p95 {entry.p95_ms:.3f} ms, {entry.inferences} inferences")
    found.add(
        "events: "
        + (f"{entry.gpu_ms:.3f} ms on the GPU, {entry.enqueue_ms or 0:.3f} ms to enqueue" if entry.gpu_ms else "none")
    )
    found.add(f"ran in {luts.counted(entry.ran_in) if entry.ran_in else 'unknown: the runtime does not say'}")
    if entry.fell_back:
        found.add(f"{len(entry.fell_back)} nodes ran in more bits than {precision}: {', '.join(entry.fell_back[:5])}")
    if entry.engine_bytes:
        found.add(f"engine of {entry.engine_bytes / 1e6:.1f} MB")
    found.findings += entry.warnings


def _refuse_failures(table: luts.Lut) -> None:
    for key, failure in table.failed.items():
        raise FieldTestError(f"{key} could not be measured: {failure.message}", hint=failure.remedy)


def _layers(bench: Bench, found: Found) -> None:
    from lightnas_edge.deploy.profile_model import profile_model

    _require(bench, bench.plan.default)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-model-") as scratch:
        record = profile_model(
            read_model(_model_file(bench, Path(scratch))), bench.connection, bench.plan.settings(),
            bench.folder / "layers", on_progress=bench.watch,
        )  # fmt: skip
    record.save(bench.folder / "layers/profile.json")
    _rename_journal(bench, "layers", found)
    found.files.append("layers/profile.json")
    found.add(f"{len(record.layers)} layers" if record.layers else "the runtime times no layers")
    found.findings += record.warnings


def _model_file(bench: Bench, folder: Path) -> Path:
    space = bench.plan.space
    (architecture,) = sample_architectures(space, 1, 0)
    path = folder / "field-test.onnx"
    path.write_bytes(graph.model_bytes(graph.network_model(space, architecture)))
    return path


def _rename_journal(bench: Bench, step: str, found: Found) -> None:
    journal = bench.folder / step / "journal.jsonl"
    if journal.exists():
        file = f"journals/{step}.jsonl"
        write_atomic(bench.folder / file, journal.read_bytes())
        journal.unlink()
        found.files.append(file)


def _isolation(bench: Bench, found: Found) -> None:
    _require(bench, bench.plan.default)
    plan, ended = bench.plan, ""

    def kill(status: Status) -> None:
        nonlocal ended
        if not ended and status.phase == "measuring" and status.done:
            argv = [bench.connection.python(), "-c", _KILL, str(status.pid)]
            ended = bench.connection.run(argv, timeout_s=30).stdout.decode(errors="replace").strip()

    write = partial(
        write_sample_job, space=plan.space, settings=plan.settings(rounds=_KILL_ROUNDS),
        architectures=sample_architectures(plan.space, 1, 0), extra_operators=sentinels(plan.space)[:1],
    )  # fmt: skip
    table = bench.measure(write, "isolation", found, on_status=kill)
    if not ended:
        raise FieldTestError("the job ended before its measuring process could be killed")
    failures = [visit for visit in table.visits if visit.error is not None]
    found.add(f"of {len(table.visits)} visits {len(failures)} failed: {', '.join(_messages(failures)) or 'none'}")
    measured = len(table.visits) - len(failures)
    if not failures or measured < 2 * _KILL_ROUNDS - len(failures):
        raise FieldTestError(
            f"killing the measuring process left {measured} measured and {len(failures)} failed visits"
        )


def _messages(visits: list[luts.Visit]) -> list[str]:
    return sorted({visit.error.message for visit in visits if visit.error is not None})


def _energy(bench: Bench, found: Found) -> None:
    _require(bench, bench.plan.default)
    if bench.probe is None or not bench.probe.energy.available:
        raise Skip(f"no sensor: {bench.probe.energy.reason if bench.probe else 'the probe failed'}")
    plan = bench.plan
    write = partial(
        write_profile_job, space=plan.space, settings=plan.settings(rounds=3, energy_rounds=1),
        operators=sentinels(plan.space)[-1:],
    )  # fmt: skip
    table = bench.measure(write, "energy", found)
    _refuse_failures(table)
    (entry,) = table.entries.values()
    if entry.energy_mj is None:
        reasons = [visit.energy.reason for visit in entry.visits if visit.energy is not None and visit.energy.reason]
        raise FieldTestError(f"energy was not measured: {reasons[0] if reasons else 'no reason was given'}")
    found.add(f"{entry.key}: {entry.energy_mj}")


def _clocks(bench: Bench, found: Found) -> None:
    _changed_and_restored(bench, found, "clocks", "jetson_clocks", lock_clocks=True)


def _power_mode(bench: Bench, found: Found) -> None:
    snapshot = bench.before
    text = snapshot.files.get("etc/nvpmodel.conf", "") if snapshot is not None else ""
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=\d+\s+NAME=(\S+)\s*>", text)
    present = limits(snapshot).get("power mode") if snapshot is not None else None
    others = [mode for mode in dict.fromkeys(modes) if mode != present]
    if present is None or not others:
        raise Skip("the board reports no power mode, or has no other one")
    # The neighbours of the present mode first: the last ones of a list are often those that need a reboot.
    others.sort(key=lambda mode: abs(modes.index(mode) - (modes.index(present) if present in modes else 0)))
    for mode in others[:_MODES_TRIED]:
        try:
            _changed_and_restored(bench, found, f"power-mode-{mode}", "nvpmodel", power_mode=mode)
            return
        except LightnasEdgeError as error:
            found.add(f"{mode}: {error}")
    raise FieldTestError(f"none of the power modes {', '.join(others[:_MODES_TRIED])} could be set and restored")


def _changed_and_restored(
    bench: Bench, found: Found, name: str, tool: str, *, lock_clocks: bool = False, power_mode: str | None = None
) -> None:
    _require(bench, bench.plan.default)
    tools = None if bench.probe is None else bench.probe.tools
    if tools is None or getattr(tools, tool) is None:
        raise Skip(f"the board has no {tool}")
    if not tools.sudo_without_password and bench.sudo_password is None:
        raise Skip("sudo requires a password; --ask-sudo-password asks for it")
    plan = bench.plan
    write = partial(
        write_sample_job, space=plan.space, architectures=[], extra_operators=sentinels(plan.space)[:1],
        settings=plan.settings(rounds=3, lock_clocks=lock_clocks, power_mode=power_mode),
    )  # fmt: skip
    table = bench.measure(write, re.sub(r"[^A-Za-z0-9_.-]", "-", name), found)
    fingerprint = table.fingerprint
    found.add(f"while measuring: clocks {fingerprint.get('clocks')}, power mode {fingerprint.get('power_mode')}")
    differences = bench.changed()
    if differences:
        raise FieldTestError("not restored: " + "; ".join(differences))
    found.add("restored, read back: power mode, limits of clocks, governors")
    if lock_clocks and fingerprint.get("clocks") not in ("locked", "cpu-gpu-locked"):
        raise FieldTestError(f"the clocks were {fingerprint.get('clocks')} while measuring, not locked")
    if power_mode is not None and fingerprint.get("power_mode") != power_mode:
        raise FieldTestError(f"the power mode was {fingerprint.get('power_mode')} while measuring, not {power_mode}")


def _table(bench: Bench, found: Found) -> None:
    _require(bench, bench.plan.default)
    plan = bench.plan
    table = bench.measure(partial(write_profile_job, space=plan.space, settings=plan.settings()), "operators", found)
    found.add(f"{len(table.entries)} operators, {len(table.failed)} failed")
    _add_spread(table, found)
    _refuse_failures(table)
    bench.operators = table


def _networks(bench: Bench, found: Found) -> None:
    _require(bench, bench.plan.default)
    plan = bench.plan
    architectures = sample_architectures(plan.space, plan.networks, 0)
    write = partial(write_sample_job, space=plan.space, settings=plan.settings(), architectures=architectures)
    table = bench.measure(write, "networks", found)
    found.add(f"{len(table.networks)} networks, {len(table.failed)} failed")
    _add_spread(table, found)
    _refuse_failures(table)
    bench.networks = table


def _add_spread(table: luts.Lut, found: Found) -> None:
    spreads = [entry.spread for entry in {**table.entries, **table.networks}.values() if entry.spread == entry.spread]
    if spreads:
        found.add(f"median spread between rounds {100 * statistics.median(spreads):.1f} %")


def _fit(bench: Bench, found: Found) -> None:
    from lightnas_edge.predictor import fit_best

    if bench.networks is None:
        raise Skip("no networks were measured")
    predictor, _ = fit_best(bench.plan.space, bench.operators, [bench.networks])
    (bench.folder / "records").mkdir(exist_ok=True)
    predictor.save(bench.folder / "records/predictor.json")
    found.files.append("records/predictor.json")
    held_out = predictor.fit.held_out
    error = "unknown" if held_out is None or held_out.mape is None else f"{100 * held_out.mape:.2f} %"
    found.add(f"{predictor.fit.chosen or predictor.fit.method}: held-out error {error} (MAPE)")


def _verify(bench: Bench, found: Found) -> None:
    from lightnas_edge.deploy import references
    from lightnas_edge.deploy.verify_model import verify_model

    _require(bench, bench.plan.default)
    known = [] if bench.networks is None else [entry.latency_ms for entry in bench.networks.networks.values()]
    target_ms = float(f"{_VERIFIED_BUDGET * (known[0] if known else 100.0):.3g}")
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-model-") as scratch:
        model = read_model(_model_file(bench, Path(scratch)))
        verified = verify_model(
            model, bench.connection, bench.folder / "verify", {"latency_ms": target_ms}, bench.plan.settings(rounds=_VERIFY_ROUNDS),
            references.from_this_machine(model, _REFERENCE_RUNS), on_progress=bench.watch,
        )  # fmt: skip
    _rename_journal(bench, "verify", found)
    found.files.append("verify/verification.json")
    found.add(verified.line)
    outputs = verified.record.outputs
    if outputs is None:
        found.add("the outputs were not compared")
    else:
        found.add(f"outputs against ONNX Runtime here: relative difference {outputs.relative_difference:.2g}")
    if verified.profile is not None:
        write_json(bench.folder / "verify/profile.json", verified.profile.to_json())
        found.files.append("verify/profile.json")
