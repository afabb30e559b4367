"""What boards, agents and SSH write, and what the agent reads on a board."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import random
import shutil
import tarfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import devices.ssh_config as ssh_config
from devices.endpoint import split_address
from devices.host_keys import HostKey, check, read_known_hosts
from devices.journal_copies import merge
from devices.openssh import read_answer
from devices.ssh.keys import read_private_key
from devices.virtual import make_board
from lightnas_edge.field_test.archive import unpack
from lightnas_edge.field_test.records import FieldTestRecord
from lightnas_edge.records.job import LockHolder
from lightnas_edge.records.journal import read_lines
from profiler import board, clocks, journal, messages, state
from profiler.backends import onnx_file, onnxruntime_trace
from profiler.backends.tensorrt import layers as tensorrt_layers
from profiler.fields import RecordError, parse, read_record
from profiler.power import find_sensors
from profiler.status import read_holder
from profiler.system import System
from tests.fuzz.examples import example_of
from tests.fuzz.target import Target, damaged_json, damaged_lines, damaged_one_of, from_file, of_record
from tests.luts.journals import header, seal, visit
from tests.models import files as models
from tests.mutations import mutated_bytes, mutated_json

NAMES = (
    "ssh config", "ssh answer", "known hosts", "ssh key", "address", "lock holder", "journal copies", "field test archive",
    "agent: journal", "agent: request", "agent: answer", "agent: lock", "agent: trace", "agent: inspector", "agent: model",
    "agent: nvpmodel", "agent: system files",
)  # fmt: skip
_INSPECTOR = Path(__file__).parents[1] / "profiler" / "tensorrt" / "inspector" / "rtx-1.7.1-int8.json"
_CONFIG = b"""# boards
Host bench-* !bench-9
    HostName 192.168.55.1
    User nvidia
    Port 2222
    IdentityFile "~/.ssh/id bench"
    IdentityFile=~/.ssh/%h-%r
    ProxyJump user@jump:2022,[fe80::1%eth0]:22
    UserKnownHostsFile ~/.ssh/known_hosts ~/.ssh/known_hosts2
Match host far.example user root
    ProxyCommand ssh -W %h:%p jump
    IdentityAgent none
Host *
    IdentitiesOnly yes
    HostKeyAlias bench
"""
_ANSWER = b"""user nvidia
hostname 192.168.55.1
port 22
identityfile ~/.ssh/id_%h
identityfile "${HOME}/.ssh/id bench"
identityagent $SSH_AUTH_SOCK
identitiesonly yes
hostkeyalias bench
proxyjump user@jump:2022
proxycommand ssh -W %h:%p %n %r %C %%
userknownhostsfile ~/.ssh/known_hosts /dev/null
globalknownhostsfile none
"""
_HOLDER = {
    "pid": 1,
    "boot_id": "b",
    "start_ticks": 1,
    "command": "0" * 16,
    "job": "0" * 16,
    "started": "2026-11-23T19:00:00Z",
}
_BOARD_STATE = dict.fromkeys(
    ("load1", "cpu_mhz", "gpu_mhz", "emc_mhz", "temperature_c", "memory_available_mb", "swap_used_mb", "over_current_events"), 1
) | {"throttled_by": ["cpu-throttle"]}  # fmt: skip
_VISITED = {
    "repeats": 2, "warmup_ms": [1.0], "samples_ms": [0.5, 0.6], "enqueue_ms": None, "gpu_ms": 0.4, "timed_s": 0.1,
    "peak_memory_mb": 3.5, "state": {"before": _BOARD_STATE, "after": _BOARD_STATE | {"foreign_cpu": 0.1}},
    "clock": {"name": "GPU", "is_steady": True, "start_mhz": 600, "end_mhz": 600, "most_mhz": None}, "energy": None,
}  # fmt: skip
_REQUESTS = (
    {"do": "visit", "model": "0" * 64, "repeats": None, "energy_steady_s": 3.0, "warmup_ms": 5, "one_by_one": True},
    {"do": "evaluate", "model": "0" * 64, "inputs": "a.f32", "offset": 0, "size": 4, "batches": 2, "output": "b.f32"},
    {"do": "readback", "model": "0" * 64, "path": "a.onnx"},
)
_TRACE = [
    {"cat": "Session", "dur": 900, "ts": 5, "name": "model_run", "args": {}},
    {"cat": "Node", "dur": 300, "ts": 10, "name": "conv_kernel_time", "args": {
        "op_name": "Conv", "input_type_shape": [{"float": [1, 3, 8, 8]}], "output_type_shape": [{"float": [1, 4, 6, 6]}],
    }},
    {"cat": "Node", "dur": 300, "ts": 400, "name": "relu_kernel_time", "args": {"op_name": "Relu"}},
]  # fmt: skip


def board_targets(folder: Path) -> list[Target]:
    key = ed25519.Ed25519PrivateKey.generate()
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    host_key = HostKey.parse(line.decode())
    hashed = b"|1|" + base64.b64encode(b"0" * 20) + b"|" + base64.b64encode(b"1" * 20)
    known = b"\n".join([
        b"bench,192.168.55.1 " + line, b"[bench]:2022 " + line, b"@revoked *.example " + line, hashed + b" " + line,
        b"@cert-authority *,!bench " + line, b"# nobody", b"",
    ])  # fmt: skip
    journals = [seal(header()), *(seal(visit(f"k{n}@1", [1.0 + n])) for n in range(6))]
    whole = b"".join(journals)
    (folder / "there.jsonl").write_bytes(whole)
    sent = onnx_file.read_graph(models.convolution((1, 3, 8, 8), (1, 4, 6, 6)).SerializeToString())
    system = _SystemFiles(folder / "board")
    return [
        Target("ssh config", damaged_one_of([_CONFIG]), from_file(folder / "config", _use_config), 5),
        Target("ssh answer", damaged_one_of([_ANSWER]), _use_answer, 10),
        Target("known hosts", damaged_one_of([known]), from_file(folder / "known_hosts", lambda path: check(
            host_key, read_known_hosts([path], "bench"), label="bench", address="bench", board=None)), 30),
        Target("ssh key", damaged_one_of(_keys(key)), from_file(folder / "key", lambda path: read_private_key(path, None)), 60),
        Target("address", damaged_one_of([b"user@bench:2022", b"[fe80::1%eth0]:22", b"fe80::1", b"bench"]),
               lambda content: split_address(content.decode("utf-8", "surrogateescape")), 100),
        Target("lock holder", damaged_json(_HOLDER), of_record(LockHolder), 30),
        Target("journal copies", damaged_one_of([whole]), from_file(
            folder / "here.jsonl", lambda path: _use_copies(path, folder / "there.jsonl")), 20),
        Target("field test archive", _damaged_archive, from_file(
            folder / "field-test.tar.gz", lambda path: _use_archive(path, folder / "unpacked")), 1),
        Target("agent: journal", damaged_lines([each.rstrip(b"\n") for each in journals], seal=True), from_file(
            folder / "agent.jsonl", lambda path: journal.read(str(path))), 20),
        Target("agent: request", lambda generator: mutated_json(generator.choice(_REQUESTS), generator),
               lambda content: messages.request_from_json(parse(content)), 60),
        Target("agent: answer", damaged_json(_VISITED), _use_answer_of_worker, 20),
        Target("agent: lock", damaged_json(_HOLDER), read_holder, 60),
        Target("agent: trace", damaged_json(_TRACE), onnxruntime_trace.read_runs, 20),
        Target("agent: inspector", damaged_json(json.loads(_INSPECTOR.read_text())), lambda content: _use_inspector(content, sent), 2),
        Target("agent: model", damaged_one_of([made.SerializeToString() for made in (
            models.convolution((1, 3, 8, 8), (1, 4, 6, 6)), models.embedding(), models.branching(), models.with_function(),
        )]), _use_model, 60),
        Target("agent: nvpmodel", damaged_one_of([b"NVPM WARN: fan\nNV Power Mode: MAXN\n0\n", b"NV Fan Mode:quiet\nNV Power Mode: 15W\n2\n"]),
               lambda content: board.parse_power_mode(content.decode("utf-8", "replace")), 60),
        Target("agent: system files", system.damaged, system.read, 1),
    ]  # fmt: skip


def _keys(key: ed25519.Ed25519PrivateKey) -> list[bytes]:
    other = ec.generate_private_key(ec.SECP256R1())
    return [
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        other.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    ]


def _use_config(path: Path) -> None:
    """As where OpenSSH's client is not installed."""
    for host in ("bench-1", "far.example"):
        ssh_config._host_config(ssh_config._read_without_client(path, host), path, host, None, None)


def _use_answer(content: bytes) -> None:
    ssh_config._host_config(read_answer(os.fsdecode(content)), Path("config"), "bench-1", None, None)


def _use_copies(here: Path, there: Path) -> None:
    intact = {line.content for path in (here, there) for line in read_lines(path) if line.is_intact}
    out = io.BytesIO()
    merge((here, there), ("here", "there"), out)
    assert set(out.getvalue().splitlines()) == intact


_FIELD_TEST = example_of(FieldTestRecord)


def _damaged_archive(generator: random.Random) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (
            ("summary.json", mutated_json(_FIELD_TEST, generator)),
            ("logs/a.log", b"a"),
        ):
            member = tarfile.TarInfo(f"field-test/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    plain = mutated_bytes(raw.getvalue()[:3072], generator) if generator.random() < 0.7 else raw.getvalue()
    packed = gzip.compress(plain, 1, mtime=0)
    return mutated_bytes(packed, generator) if generator.random() < 0.2 else packed


def _use_archive(archive: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    FieldTestRecord.load(unpack(archive, folder) / "summary.json")


def _use_answer_of_worker(content: bytes) -> None:
    value = parse(content)
    read_record(value, messages.Visited.read).to_json()


def _use_inspector(content: bytes, sent: onnx_file.Graph) -> None:
    found = tensorrt_layers.parse(content.decode("utf-8", "replace"))
    tensorrt_layers.read(found, [("conv", 1.0)])
    tensorrt_layers.read_back(found, sent, "int8")
    json.dumps(tensorrt_layers.profile(found, [[("conv", 1.0)]], [1.0], sent))


def _use_model(content: bytes) -> None:
    try:
        onnx_file.read_graph(content)
    except ValueError as error:  # what it is documented to raise
        raise RecordError([str(error)]) from error


class _SystemFiles:
    """The files of a virtual board, of which one has a damaged content."""

    def __init__(self, root: Path) -> None:
        make_board(root, "jetson-orin-nano")
        self._system = System(str(root))
        self._catalogue = [
            json.loads(path.read_text())
            for path in sorted((Path(__file__).parents[2] / "devices" / "catalog").glob("*.json"))
        ]
        self._files = sorted(
            path for part in ("proc", "sys", "etc") for path in (root / part).rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 20_000
        )  # fmt: skip
        self._contents = [path.read_bytes() for path in self._files]

    def damaged(self, generator: random.Random) -> bytes:
        """Which file, then its content."""
        at = generator.randrange(len(self._files))
        return b"%d " % at + mutated_bytes(self._contents[at], generator)

    def read(self, content: bytes) -> None:
        number, _, damaged = content.partition(b" ")
        at = int(number) % len(self._files) if number.isdigit() and len(number) < 9 else 0
        self._files[at].write_bytes(damaged)
        try:
            self._read()
        finally:
            self._files[at].write_bytes(self._contents[at])

    def _read(self) -> None:
        system = self._system
        description = board.identify(self._catalogue, system.proc)
        board.jetpack_of(description, board.l4t_release(system))
        for read in (board.cpu_name, board.int8_instructions):
            read(system.proc)
        board.memory_mb(system.proc, "MemTotal")
        board.unit(system)
        for read_clocks in (clocks.governors, clocks.clock_state, clocks.limits, clocks.gpu_state):
            read_clocks(system.sysfs)
        for on_gpu in (True, False):
            domain = clocks.engine_clock(system.sysfs, on_gpu)
            if domain is not None:
                domain.current_mhz()
                domain.most_mhz()
                domain.is_locked()
        state.throttling_devices(system.sysfs)
        state.temperatures_c(system.sysfs)
        found = find_sensors(system.sysfs, description)
        try:
            json.dumps(found.header(), allow_nan=False)
            for sensor in found.sensors:
                sensor.read()
        finally:
            found.close()
