"""Large valid journals, written quickly: the agent's form, with invented numbers."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

from tests.luts.journals import FINGERPRINT, header, seal

_STATE = (
    '{"load1":%.2f,"cpu_mhz":null,"gpu_mhz":%.1f,"emc_mhz":null,"temperature_c":%.1f,"memory_available_mb":%.1f,'
    '"swap_used_mb":0.0,"over_current_events":0,"throttled_by":[]%s}'
)


def write_large(
    path: Path, size_bytes: int, *, samples: int, rounds: int = 100, seed: int = 0, unit: int | None = None
) -> Path:
    """A journal of about this size, of one session.

    Args:
        samples: of a visit. Operators have few, networks have many.
        unit: that measured it; None: one without an identity.
    """
    generator = random.Random(seed)
    session = f"{0x0123ABCD + (unit or 0):08x}"
    fingerprint = FINGERPRINT if unit is None else {**FINGERPRINT, "unit": f"{unit:016x}"}
    lines = size_bytes // (850 + 9 * samples)
    keys = max(4, -(-lines // rounds))
    subjects = [_subject(key, is_network=samples > 10) for key in range(keys)]
    with path.open("wb") as file:
        file.write(seal(header(fingerprint=fingerprint)))
        for number in range(lines):
            round_, key = divmod(number, keys)
            file.write(_visit(subjects[key], session, key, round_, samples, generator))
    return path


def _subject(key: int, *, is_network: bool) -> str:
    subject: dict[str, Any]
    if is_network:
        name, subject = f"net-{key:012x}", {"architecture": {"kind": "architecture", "operators": ["mbconv_k3_e6"] * 7}}
    else:
        name = f"mbconv_k5_e6@{key}x112-24s2"
        facts = {
            "key": name,
            "block": "mbconv_k5_e6",
            "in_channels": key + 1,
            "out_channels": 24,
            "stride": 2,
            "input_size": 112,
        }
        subject = {"operator": facts}
    return f'"key":"{name}",' + json.dumps(subject, separators=(",", ":"))[1:-1]


def _visit(subject: str, session: str, key: int, round_: int, samples: int, generator: random.Random) -> bytes:
    def times(count: int, scale: float) -> str:
        return ",".join(f"{scale * (1 + 0.02 * abs(generator.gauss(0, 1))):.6f}" for _ in range(count))

    truth_ms = 0.2 + 0.37 * (key % 50)
    state = (generator.random() * 3, 1377.0, 40 + 9 * generator.random(), 20_000 + 900 * generator.random())
    body = (
        f'{{"kind":"visit",{subject},"session":"{session}","round":{round_},"phase":"rounds","t_s":{round_ * 9.731 + key * 0.013:.3f},'
        f'"repeats":{1 if samples > 10 else 4},"warmup_ms":[{times(6, 2 * truth_ms)}],"samples_ms":[{times(samples, truth_ms)}],'
        f'"enqueue_ms":null,"gpu_ms":null,"peak_memory_mb":null,"ran_in":null,"fell_back":[],"engine_bytes":null,"energy":null,'
        f'"before":{_STATE % (*state, "")},"after":{_STATE % (*state, f",{chr(34)}foreign_cpu{chr(34)}:{generator.random() / 9:.3f}")},'
        f'"warnings":[],"error":null}}'
    ).encode()  # fmt: skip
    return body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)
