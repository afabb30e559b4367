"""`lightnas-edge probe`: the board, what can be measured on it, and what is missing."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import devices
from devices import AgentFailedError
from lightnas_edge.cli._console import print_json, print_result
from lightnas_edge.cli._fleet import for_each_host
from lightnas_edge.cli._leftover import restore_leftover
from lightnas_edge.cli._options import add_host, add_json
from lightnas_edge.fleet import chosen_hosts

_LABEL = 11  # width
ROOM_MB = 500.0  # for the agent, a space's models and journals, and the engines that TensorRT keeps


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "probe", help="show the board, and what can be measured on it",
        description="Run the agent on a board and print what it finds there, and what is missing for a campaign.",
        epilog="example: lightnas-edge probe --host localhost",
    )  # fmt: skip
    add_host(parser, several=True)
    parser.add_argument("--backend", metavar="NAME", help="engine (default: TensorRT on a Jetson, else ONNX Runtime)")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found, code = for_each_host(arguments, lambda host: _probe(arguments, host))
    if arguments.json:
        print_json(found if len(chosen_hosts(arguments.host)) > 1 else found[0])
    return code


def _probe(arguments: argparse.Namespace, host: str) -> dict[str, Any]:
    """What one board answers; shown unless JSON is wanted."""
    connection = devices.connect(host)
    leftover = restore_leftover(connection)
    found = devices.probe(connection, arguments.backend).to_json()
    found["leftover"] = None if leftover is None else leftover.to_json()
    try:
        lines = list(describe(found))
        missing = [lack._asdict() for lack in lacking(found)]
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise AgentFailedError(
            f"{host} answers the probe with a record that no agent writes: {err!r}",
            hint="check that the address is that of the board",
        ) from err
    if not arguments.json:
        for line in lines:
            print_result(line)
    return {**found, "missing": missing}


class Lack(NamedTuple):
    """Something that is missing, why, and how to get it."""

    what: str
    remedy: str


def describe(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a probe's answer."""
    board, simulated = found["board"], found["fingerprint"].get("simulated")
    title = board["module"] or found["title"] or board["name"]
    yield f"{title}{' (simulated: no number is measured)' if simulated else ''}"
    for label, text in (
        ("system", _system(found)),
        ("processor", _processor(board)),
        ("state", _state(found)),
        ("engine", _engine(found)),
        ("energy", _energy(found)),
        ("sudo", _sudo(found)),
    ):
        yield f"  {label:<{_LABEL}}{text}"
    lacks = list(lacking(found))
    if not lacks:
        yield "nothing is missing"
        return
    yield "missing:"
    for lack in lacks:
        yield f"  - {lack.what}"
        if lack.remedy:
            yield f"      {lack.remedy}"


def lacking(found: dict[str, Any]) -> Iterator[Lack]:
    """What is missing on this board, most important first."""
    leftover = found.get("leftover")
    if leftover is not None and leftover["state"] == "changed":
        yield Lack(f"the board's own settings: {leftover['message']}", leftover["remedy"])
    if found["error"]:
        yield Lack(f"latency: {found['error']['message']}", found["error"]["remedy"])
    if not found["energy"]["available"]:
        entries = found["missing_sensors"]
        if not entries:
            yield Lack(f"energy: {found['energy']['reason']}", "")
        for entry in entries:
            name = f"{entry['sensor']} {entry['rail']}".strip()
            yield Lack(f"energy by {name}: {entry['reason']}", entry["remedy"])
    else:
        for entry in found["missing_sensors"]:
            yield Lack(f"{entry['sensor']} {entry['rail']}".strip() + f": {entry['reason']}", entry["remedy"])
    clocks, tools = found["fingerprint"]["clocks"], found["tools"]
    if clocks == "floating":
        remedy = (
            "measure with --lock-clocks" if tools["jetson_clocks"] else "set one frequency with the governor, as root"
        )
        yield Lack("steady clocks: the clocks float, so the speed of short work varies", remedy)
    elif clocks is None:
        yield Lack("clocks: they cannot be read", "")
    if tools["jetson_clocks"] and not tools["sudo_without_password"]:
        yield Lack(
            "clock control without a password",
            "give --ask-sudo-password with --lock-clocks or --power-mode, or allow sudo on the board without one",
        )
    room = found["disk_free_mb"]
    if room is not None and room < ROOM_MB:
        yield Lack(
            f"room on the disk: {room:.0f} MB are free",
            "free at least 500 MB on the board; `lightnas-edge boards clean HOST` removes the files of earlier jobs",
        )
    if found["state"]["throttled_by"]:
        yield Lack(f"full speed: throttled for heat by {', '.join(found['state']['throttled_by'])}", "cool the board")
    if board_lacks_l4t(found):
        yield Lack(f"JetPack: L4T {found['board']['l4t']} is not in the catalogue of this board", "")


def board_lacks_l4t(found: dict[str, Any]) -> bool:
    return found["board"]["l4t"] is not None and found["board"]["jetpack"] is None


def _system(found: dict[str, Any]) -> str:
    board = found["board"]
    parts = [
        f"JetPack {board['jetpack']}" if board["jetpack"] else None,
        f"L4T {board['l4t']}" if board["l4t"] else None,
        board["system"],
        f"Python {found['python']['version']} ({found['python']['path']})",
    ]
    return _listed(parts)


def _processor(board: dict[str, Any]) -> str:
    gpu = board["gpu"]
    parts = [
        board["cpu"],
        f"{board['cores']} cores" if board["cores"] else None,
        f"{board['memory_mb'] / 1024:.1f} GB" if board["memory_mb"] else None,
        f"GPU {_range(gpu['min_mhz'], gpu['max_mhz'])} MHz" if gpu else None,
    ]
    return _listed(parts)


def _state(found: dict[str, Any]) -> str:
    state, mode = found["state"], found["board"]["power_mode"]
    parts = [
        f"power mode {mode['name']} ({mode['id']})" if mode else None,
        f"clocks {found['fingerprint']['clocks'] or 'unknown'}",
        f"CPU {state['cpu_mhz']:.0f} MHz" if state["cpu_mhz"] is not None else None,
        f"GPU {state['gpu_mhz']:.0f} MHz" if state["gpu_mhz"] is not None else None,
        _temperatures(found),
        f"{state['memory_available_mb'] / 1024:.1f} GB of memory free" if state["memory_available_mb"] else None,
        f"{found['disk_free_mb'] / 1024:.1f} GB of disk free" if found["disk_free_mb"] is not None else None,
        f"load {state['load1']:g}" if state["load1"] is not None else None,
        f"throttled by {', '.join(state['throttled_by'])}" if state["throttled_by"] else None,
    ]
    return _listed(parts)


def _temperatures(found: dict[str, Any]) -> str:
    """The hottest zone, and those of the processors: `cpu-thermal` on JetPack 6, `CPU-therm` before."""
    hottest = found["state"]["temperature_c"]
    if hottest is None:
        return "temperature unknown"
    named = (
        (re.fullmatch(r"(cpu|gpu)[-_ ]?therm(al)?", name.lower()), value)
        for name, value in found["temperatures_c"].items()
    )
    each = ", ".join(f"{match[1].upper()} {value:.0f} C" for match, value in named if match)
    return f"maximum {hottest:.0f} C{f' ({each})' if each else ''}"


def _engine(found: dict[str, Any]) -> str:
    if found["error"]:
        return f"{found['backend']}: not available"
    fingerprint, runtime = found["fingerprint"], found["runtime"]
    parts = [f"{fingerprint['backend']} {fingerprint['backend_version']}", fingerprint["provider"]]
    if runtime.get("cuda_runtime"):
        parts.append(f"CUDA {runtime['cuda_runtime']} by {runtime['cuda_layer']}")
    if runtime.get("device"):
        parts.append(f"{runtime['device']}, compute capability {runtime['compute_capability']}")
    if found["runtime_at"]:
        parts.append(f"found in {found['runtime_at']}")
    return _listed(parts)


def _energy(found: dict[str, Any]) -> str:
    sensor = found["energy"].get("sensor")
    if not found["energy"]["available"]:
        return "not available"
    total = " + ".join(sensor["total"])
    steps = [sensor["resolution_mw"].get(label) for label in sensor["total"]]
    step = f"step {sum(steps):.0f} mW" if None not in steps else "step unknown"
    others = len(sensor["rails"]) - len(sensor["total"])
    rails = f", and {others} rails inside it" if others else ""
    return f"{sensor['sensor']}: total {total}{rails}; {step}, low-pass {sensor['tau_s']:g} s"


def _sudo(found: dict[str, Any]) -> str:
    tools = found["tools"]
    able = [flag for tool, flag in (("jetson_clocks", "--lock-clocks"), ("nvpmodel", "--power-mode")) if tools[tool]]
    if not able:
        return "not needed: this machine has neither jetson_clocks nor nvpmodel"
    asks = "without a password" if tools["sudo_without_password"] else "needs a password, or is not allowed"
    return f"{asks}; for {' and '.join(able)}"


def _range(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{low:.0f} to {high:.0f}"


def _listed(parts: list[str | None]) -> str:
    return ", ".join(part for part in parts if part)
