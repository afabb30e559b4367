"""The job's manifest, read and checked: every fault in one message."""

import json
import os
import re
from typing import Any, Dict, List

from profiler.errors import ManifestError

SCHEMA = 1
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*$")  # becomes part of a file's name

Manifest = Dict[str, Any]


def read_manifest(folder: str) -> Manifest:
    """The manifest of a job directory.

    Raises:
        ManifestError: it cannot be read, or says something the agent cannot do; all faults together.
    """
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, "rb") as file:
            manifest = json.loads(file.read().decode("utf-8"))
    except OSError as err:
        raise ManifestError("cannot read {}: {}".format(path, err.strerror), "give a job directory with --job")
    except ValueError as err:
        raise ManifestError("{} is not JSON: {}".format(path, err), "write the job directory again")
    faults = check(manifest)
    if faults:
        raise ManifestError("{}: {}".format(path, "; ".join(faults)), "write the job directory again")
    return manifest


def check(manifest: Any) -> List[str]:
    """Everything that is wrong with a manifest, each with its field and the value found."""
    if not isinstance(manifest, dict) or manifest.get("kind") != "job":
        return ["not a job"]
    if isinstance(manifest.get("schema"), int) and manifest["schema"] > SCHEMA:
        return ["schema {}; this agent knows up to {}: update it".format(manifest["schema"], SCHEMA)]
    faults = []

    def expect(holds: bool, field: str, value: Any, wanted: str) -> None:
        if not holds:
            faults.append("{} is {!r}, not {}".format(field, value, wanted))

    expect(manifest.get("schema") == SCHEMA, "schema", manifest.get("schema"), str(SCHEMA))
    for field in ("job", "space"):
        expect(_is_name(manifest.get(field)), field, manifest.get(field), "a plain name")
    purpose = manifest.get("purpose")
    expect(purpose in ("profile", "sample", "verify"), "purpose", purpose, "profile, sample or verify")
    expect(_is_sha256(manifest.get("space_sha256")), "space_sha256", manifest.get("space_sha256"), "a SHA-256")
    for field in ("backend", "precision"):
        expect(isinstance(manifest.get(field), str), field, manifest.get(field), "text")
    for field in ("batch", "threads"):
        expect(_is_count(manifest.get(field), 1), field, manifest.get(field), "a whole number above 0")
    protocol = manifest.get("protocol")
    if isinstance(protocol, dict):
        for field, least in (("version", 1), ("seed", 0), ("rounds", 1), ("samples_per_visit", 1)):
            expect(_is_count(protocol.get(field), least), "protocol." + field, protocol.get(field), "a whole number")
        for field in ("warmup_ms", "min_sample_ms"):
            expect(_is_number(protocol.get(field), 0), "protocol." + field, protocol.get(field), "a number from 0")
        timeout_s = protocol.get("timeout_s")
        expect(_is_number(timeout_s, 0) and timeout_s > 0, "protocol.timeout_s", timeout_s, "a number above 0")
        extra = protocol.get("extra_rounds", 0)
        expect(_is_count(extra, 0), "protocol.extra_rounds", extra, "a whole number")
        limit = protocol.get("spread_limit")
        expect(limit is None or _is_number(limit, 0), "protocol.spread_limit", limit, "null or a number from 0")
    else:
        expect(False, "protocol", protocol, "an object")
    wanted = manifest.get("energy")
    if wanted is not None:
        whole = isinstance(wanted, dict) and _is_count(wanted.get("rounds"), 1)
        whole = whole and _is_number(wanted.get("steady_s"), 3)
        expect(whole, "energy", wanted, "null or {rounds: at least 1, steady_s: at least 3}")
    changes = manifest.get("board_setup")
    if changes is not None:
        whole = isinstance(changes, dict) and isinstance(changes.get("lock_clocks"), bool)
        mode = changes.get("power_mode") if whole else ""
        expect(whole and (mode is None or _is_name(mode)), "board_setup", changes, "null or {lock_clocks, power_mode}")
    sentinels = manifest.get("sentinels")
    expect(isinstance(sentinels, list) and all(map(_is_name, sentinels)), "sentinels", sentinels, "a list of keys")
    seen = set()
    for where, row in _rows(manifest, "measurements", faults):
        expect(_is_name(row.get("key")), where + ".key", row.get("key"), "a key")
        expect(_is_sha256(row.get("model")), where + ".model", row.get("model"), "a SHA-256")
        subjects = [name for name in ("operator", "architecture") if isinstance(row.get(name), dict)]
        expect(len(subjects) == 1, where, subjects, "about one operator or one architecture")
        expect(str(row.get("key")) not in seen, where + ".key", row.get("key"), "new: it stands there twice")
        seen.add(str(row.get("key")))
    batch = manifest["batch"] if _is_count(manifest.get("batch"), 1) else 1
    for where, row in _rows(manifest, "evaluations", faults):
        expect(_is_name(row.get("key")), where + ".key", row.get("key"), "a key")
        for field in ("model", "inputs"):
            expect(_is_sha256(row.get(field)), where + "." + field, row.get(field), "a SHA-256")
        shape = row.get("shape")
        whole = isinstance(shape, list) and len(shape) > 1 and all(_is_count(side, 1) for side in shape)
        expect(whole and shape[0] % batch == 0, where + ".shape", shape, "[N, ...] with N a multiple of the batch size")
    return faults


def _rows(manifest: Manifest, field: str, faults: List[str]) -> List[Any]:
    rows = manifest.get(field)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        faults.append("{} is not a list of objects".format(field))
        return []
    return [("{}[{}]".format(field, index), row) for index, row in enumerate(rows)]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.match(value))


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and bool(_SHA256.match(value))


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < float("inf")
