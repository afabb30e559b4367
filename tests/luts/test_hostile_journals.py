"""No content of a journal ends in a traceback: boards may be broken, files damaged, or written by another program."""

from __future__ import annotations

import copy
import json
import random
import zlib
from pathlib import Path
from typing import Any

import luts
from lightnas_edge.errors import LightnasEdgeError
from tests.luts.journals import header, visit

MUTANTS = 2000

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 10**18, 10**400, -(10**400), 1e308, -1e308, 1e-320, 1e12, 0.5, "", "x", "a@1",
    "\ud800", "\x1b[2J", "x" * 5000, [], {}, [None], [[]], ["x"], [1e308, 1e308], [1e-300, 1e11], {"gross_mj": 10**400},
    float("nan"), float("inf"), "net-1", [0.001, 1e11], [1, 2, 3], {"batch": True}, {"": ""},
]  # fmt: skip
STATE = {"load1": 1.0, "cpu_mhz": 2000.0, "temperature_c": 50.0, "throttled_by": ["cpu-thermal"], "foreign_cpu": 0.1}
ENERGY = {
    "gross_mj": 2.0, "gross_interval_mj": [1.9, 2.1], "net_mj": 1.0, "net_interval_mj": [0.9, 1.1], "reason": None,
    "gross_error": {"random_mj": 0.1, "freedom": 8.0, "shared_mj": [0.02]}, "net_error": None,
    "warnings": [], "rails": ["VDD_IN"], "windows": {"idle_before": [-5.0, -0.1], "busy": [0.0, 5.0], "idle_after": None},
}  # fmt: skip


def records() -> list[dict[str, Any]]:
    """A header and visits of four operators and a network in two rounds of two sessions; one operator failed."""
    found = [header(sentinels=["k0@1"], board={"memory_mb": 7850})]
    for session in ("aaaaaaaa", "bbbbbbbb"):
        for round_ in range(2):
            for number in range(4):
                found.append(
                    visit(
                        f"k{number}@1", [1.0 + number, 1.1 + number], session=session, round=round_, before=STATE,
                        after=STATE, energy=ENERGY if round_ == 1 else None, peak_memory_mb=5.0,
                    )
                )  # fmt: skip
            network = {"kind": "architecture", "schema": 1, "space": "tiny", "operators": ["skip"]}
            found.append(visit("net-0", [9.0], session=session, round=round_, architecture=network))
    found.append(visit("bad@1", [], error={"code": "load", "message": "no memory", "remedy": "use less"}))
    return found


def line_of(record: Any) -> bytes:
    """A sealed line, with NaN and lone surrogates as a careless writer would have them."""
    body = json.dumps(record, separators=(",", ":")).encode()
    return body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)


def change_a_value(generator: random.Random, record: Any) -> None:
    """Replace, remove or add a value anywhere in a record."""
    holder = record
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not places:
            return
        place = generator.choice(places)
        inside = holder[place]
        if isinstance(inside, (dict, list)) and inside and generator.random() < 0.7:
            holder = inside
            continue
        action = generator.random()
        if action < 0.75:
            holder[place] = copy.deepcopy(generator.choice(VALUES))
        elif action < 0.9:
            del holder[place]
        elif isinstance(holder, dict):
            holder[generator.choice(["x", "key", "\x1b[2J", "batch"])] = generator.choice(VALUES)
        else:
            holder.append(generator.choice(VALUES))
        return


def damage_bytes(generator: random.Random, content: bytes) -> bytes:
    """Flip bytes, cut the file, double a part, nest deeply, or change the encoding."""
    kind = generator.randrange(7)
    at = generator.randrange(len(content))
    if kind == 0:
        return content[:at] + bytes([generator.randrange(256)]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[max(at - 500, 0) :]
    if kind == 3:
        body = b"[" * 100_000
        return content + body + b',"crc32":"%08x"}\n' % zlib.crc32(body + b"}")
    if kind == 4:
        return content.decode("utf-8", "replace").encode("utf-16")
    if kind == 5:
        body = content.split(b"\n")[1][:at]
        return content + body + b',"crc32":"%08x"}\n' % zlib.crc32(body + b"}")
    return content.replace(b"\n", generator.choice([b"\r", b"\r\n", b"\n\n", b"\x00\n", b" \n"]))


def mutant(generator: random.Random) -> bytes:
    lines = copy.deepcopy(records())
    for _ in range(generator.choice([1, 1, 1, 2, 5, 20])):
        change_a_value(generator, lines[0] if generator.random() < 0.25 else generator.choice(lines))
    content = b"".join(map(line_of, lines))
    return damage_bytes(generator, content) if generator.random() < 0.2 else content


def use_everything(path: Path, other: luts.Lut) -> None:
    """Every property and comparison that the commands use."""
    lut = luts.read(path)
    keys = [*lut.entries, *lut.networks]
    for entry in (lut.entries | lut.networks).values():
        assert entry.latency_ms > 0
        assert isinstance(entry.unstable, bool) and entry.corrected_ms and entry.subject is not None
        assert all(warning.isprintable() for warning in entry.warnings)
        for metric in luts.METRICS:
            entry.quantity(metric)
        str(entry.energy_mj)
    assert lut.batch >= 1 and isinstance(lut.simulated, bool) and lut.command_options
    assert all(fault.what.isprintable() for fault in lut.faults)
    str(lut.coverage([*keys, *lut.failed, "absent@1"]))
    lut.to_frame()
    str(luts.repeatability(lut))
    for action in (
        lambda: [lut.quantities(keys, metric) for metric in luts.METRICS],
        lambda: lut.latency_ms("absent@1"),
        lambda: luts.drift_ratio(lut, other),
        lambda: luts.drift_ratio(lut, other, metric="net_energy_mj"),
        lambda: luts.merge([lut, other]).latencies_ms(keys),
        lambda: str(luts.repeatability(lut, other, metric="energy_mj")),
    ):
        try:
            action()
        except LightnasEdgeError as error:
            assert str(error)


def hunt(path: Path, seed: int, count: int) -> None:
    """Every mutant is used or refused by an error of the family, with a message."""
    generator = random.Random(seed)
    path.write_bytes(b"".join(map(line_of, records())))
    other = luts.read(path)
    for number in range(count):
        path.write_bytes(mutant(generator))
        try:
            use_everything(path, other)
        except LightnasEdgeError as error:
            assert str(error)
        except Exception as error:
            kept = path.with_name(f"mutant-{seed}-{number}")
            kept.write_bytes(path.read_bytes())
            raise AssertionError(f"{type(error).__name__} instead of an answer: {kept}") from error


def test_the_unchanged_journal_is_read_whole(tmp_path):
    path = tmp_path / "t.lut.jsonl"
    path.write_bytes(b"".join(map(line_of, records())))

    lut = luts.read(path)

    assert lut.faults == ()
    assert len(lut.visits) == len(records()) - 1


def test_no_mutated_journal_ends_in_a_traceback(tmp_path):
    hunt(tmp_path / "t.lut.jsonl", seed=0, count=MUTANTS)
