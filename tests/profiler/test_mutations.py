"""Whatever a file contains, the agent reads it or refuses it with an error of its own; never a traceback."""

import copy
import json
import random

import pytest

from profiler import guard, journal, setup_note
from profiler.errors import AgentError, JournalError, ManifestError, SetupError
from profiler.manifest import Manifest, read_manifest
from profiler.plan import Plan
from profiler.status import read_holder
from tests.profiler.test_manifest import PROTOCOL, SHA, manifest

STRANGE = [
    None, True, -1, 0, 1, 7.5, 2**31, 10**30, -(10**5000), 1e308, float("nan"), float("inf"), "", "x" * 5000, "\0",
    "\ud800", "../../etc/passwd", [], [None], [[[]]], [1, "2"], {}, {"": {}}, {"key": 1},
]  # fmt: skip

JOB = manifest(
    protocol=dict(PROTOCOL, spread_limit=0.03, extra_rounds=2, inferences_per_visit=9, round_s=1.0, sustained_s=60.0),
    energy={"rounds": 1, "steady_s": 5.0},
    board_setup={"lock_clocks": True, "power_mode": "MAXN"},
    measurements=[
        {"key": "skip@3x8-3s1", "model": SHA, "operator": {"name": "skip"}},
        {"key": "net-1", "model": SHA, "architecture": {"operators": ["skip"]}},
    ],
    evaluations=[{"key": "net-1", "model": SHA, "inputs": SHA, "runs": 4, "run_bytes": 768}],
    layer_profiles=["net-1"],
)
HEADER = {"kind": "lut", "schema": 1, "fingerprint": {"board": "x", "threads": 1}, "space_sha256": SHA}
VISIT = {
    "kind": "visit", "key": "skip@3x8-3s1", "operator": {"name": "skip"}, "session": "0" * 8, "round": 0, "phase": "rounds", "t_s": 0.5,
    "samples_ms": [0.5, 0.6], "energy": {"gross_mj": 1.5}, "before": {}, "after": {}, "error": None,
}  # fmt: skip
NOTE = {"job": "0" * 16, "boot_id": "b", "power_mode": 0, "clocks": None, "limits": {"a": "1"}}


def places(value, found=()):
    """The path of every value in a record."""
    yield found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*found, key))


def mutated_record(draw, record):
    """A copy in which one value is strange, missing, doubled or nested."""
    record = copy.deepcopy(record)
    path = draw.choice([path for path in places(record) if path])
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    change = draw.randrange(5)
    if change == 0:
        del holder[path[-1]]
    elif change == 1 and isinstance(holder, dict):
        holder[draw.choice(["extra", "", "kind", "\ud800"])] = holder[path[-1]]
    elif change == 2 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[path[-1]]))
    else:
        holder[path[-1]] = draw.choice(STRANGE)
    return record


def mutated_bytes(draw, content):
    """A copy with a flipped, lost, doubled or foreign part."""
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([1, 1, 1, 2, 8, 64, len(content)]))
    part = draw.choice([
        b"", bytes([content[start] ^ (1 << draw.randrange(8))]), content[start:end] * 2, b"\xff", b"\0" * 9,
        b"[" * 100_000, b"9" * 6000, b"NaN", b"-Infinity", b"1e999", b'"', b"\n", b"\\ud800",
    ])  # fmt: skip
    return content[:start] + part + content[end:]


def variants(record, count, encode, seed):
    draw = random.Random(seed)
    for _ in range(count):
        if draw.random() < 0.7:
            changed = mutated_record(draw, record)
            yield encode(mutated_record(draw, changed) if draw.random() < 0.3 else changed)
        else:
            yield mutated_bytes(draw, encode(record))


def plain(record):
    return unbounded(record).encode("utf-8", "surrogatepass")


def unbounded(record):
    """JSON of a record with integers of any length, which json.dumps refuses from Python 3.11 on."""
    if type(record) is int and abs(record) > 10**4000:
        return "-1" + "0" * 5000
    if isinstance(record, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{unbounded(value)}" for key, value in record.items()) + "}"
    if isinstance(record, list):
        return "[" + ",".join(map(unbounded, record)) + "]"
    return json.dumps(record)


def with_checksum(record):
    """A journal's line of any content: its checksum is right, so the content decides."""
    body = plain(record)
    checksum = journal.zlib.crc32(body) & 0xFFFFFFFF
    return body[:-1] + b',"crc32":"%08x"}\n' % checksum if body.endswith(b"}") else body + b"\n"


def test_no_content_of_a_manifest_ends_in_a_traceback(tmp_path):
    outcomes = {"read": 0, "refused": 0}
    for content in variants(JOB, 2500, plain, seed=1):
        (tmp_path / "manifest.json").write_bytes(content)
        try:
            read = read_manifest(str(tmp_path))
        except ManifestError as err:
            outcomes["refused"] += 1
            assert err.message and err.remedy
            json.dumps(err.to_json()).encode("ascii")
        else:
            outcomes["read"] += 1
            Plan(read._replace(protocol=read.protocol._replace(rounds=2)), [])

    assert outcomes["refused"] > 1500 and outcomes["read"] > 50, outcomes


def test_no_content_of_a_journal_ends_in_a_traceback(tmp_path):
    whole = journal.encode(HEADER) + journal.encode(VISIT)
    job, path = Manifest.from_json(JOB), tmp_path / "journal.jsonl"
    outcomes = {"kept": 0, "measured again": 0}
    for tail in variants(VISIT, 2500, with_checksum, seed=2):
        path.write_bytes(whole + tail)

        contents = journal.read(str(path))
        plan = Plan(job, contents.visits)
        list(plan.visits({}))

        assert contents.visits[0].key == VISIT["key"]
        outcomes["kept" if len(contents.visits) > 1 else "measured again"] += 1

    assert outcomes["measured again"] > 500 and outcomes["kept"] > 200, outcomes


def test_no_first_line_of_a_journal_ends_in_a_traceback(tmp_path):
    path = tmp_path / "journal.jsonl"
    refused = 0
    for line in variants(HEADER, 1500, with_checksum, seed=3):
        path.write_bytes(line)
        try:
            contents = journal.read(str(path))
        except JournalError as err:
            refused += 1
            assert err.message and err.remedy
        else:
            if contents.origin is not None:
                journal.differences(contents.origin.fingerprint, HEADER["fingerprint"])

    assert refused > 700


def test_no_content_of_a_setup_note_ends_in_a_traceback(tmp_path):
    path = tmp_path / setup_note.NAME
    refused = 0
    for content in variants(NOTE, 1500, plain, seed=4):
        path.write_bytes(content)
        try:
            note = setup_note.read_note(str(path))
        except SetupError as err:
            refused += 1
            assert err.message and str(path) in err.remedy
        else:
            assert note is None or note.power_mode is None or note.power_mode >= 0

    assert refused > 300


def test_a_setup_note_that_names_a_foreign_file_is_refused(tmp_path):
    """Root restores the clocks from that file and deletes it."""
    path = tmp_path / setup_note.NAME
    path.write_text(json.dumps(dict(NOTE, clocks="/etc/passwd")))

    with pytest.raises(SetupError, match="names another file of clocks"):
        setup_note.read_note(str(path))


def test_no_content_of_a_lock_or_a_request_to_the_guard_ends_in_a_traceback(capsys):
    lock = {
        "pid": 77,
        "boot_id": "b",
        "start_ticks": 1,
        "command": "c",
        "job": "0" * 16,
        "started": "2026-01-01T00:00:00Z",
    }
    asker = {"pid": 77, "boot_id": "b", "start_ticks": 1, "command": "c"}
    request = {
        "home": 7,
        "root": "/",
        "job": "0" * 16,
        "asker": asker,
        "wanted": {"lock_clocks": True, "power_mode": None},
    }
    for content in variants(lock, 800, plain, seed=5):
        holder = read_holder(content)
        assert holder is None or holder.process.pid > 0
    for content in variants(request, 300, plain, seed=6):
        text = content.decode("utf-8", "surrogateescape")
        if '"home":7' in text:  # a request that could be carried out is not one for a test
            assert guard.main(text) == AgentError.exit_code
            assert json.loads(capsys.readouterr().out)["code"] == "setup"
