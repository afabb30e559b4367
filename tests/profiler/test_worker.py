"""The measuring process keeps no more in memory than it must."""

import hashlib
import tracemalloc

import pytest

from profiler import backends, messages, worker
from profiler.backends.ran_in import RanIn
from profiler.errors import MeasureError

MB = 2**20


class Engine(backends.Engine):
    def __init__(self, size):
        self.size = size

    def memory_bytes(self):
        return self.size

    def ran_in(self, model):
        return RanIn({"int8": 2, "fp32": 1}, ["head"])

    def engine_bytes(self):
        return 7


class ApartEngine(Engine):
    reads_back_apart = True


class Backend(backends.Backend):
    """Engines of a few MB, from models of a few bytes: the model is the engine's size."""

    engine = Engine

    def fingerprint(self):
        return {"backend": "sized"}

    def runtime(self):
        return {}

    def load(self, model):
        return self.engine(int(model) * MB or None)


def configuration(folder, **changes):
    request = messages.ConfigureRequest(
        backend="sized", precision="fp32", batch=1, threads=1, cuda_graph=False, home=str(folder), root=str(folder),
        board={"name": "generic-linux"}, power_mode=None, clocks=None, min_sample_ms=1.0,
        samples_per_visit=1, min_single_ms=0.0, inferences_per_visit=1,
    )  # fmt: skip
    return request._replace(**changes)


@pytest.fixture
def loads(tmp_path, monkeypatch):
    """Load models of these sizes in MB into a worker on a board with 400 MB: what each load evicted, by size."""
    monkeypatch.setattr(backends, "open_backend", lambda *_, **__: Backend())
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(f"MemAvailable: {400 * 1024} kB\n")
    process = worker.Worker()
    process.answer(configuration(tmp_path))

    def read_back(size):
        content = str(size).encode()
        name = hashlib.sha256(content).hexdigest()
        return process.answer(messages.ReadBackRequest(name, str(tmp_path / f"{size}.onnx")))

    def load(*sizes):
        names, evicted = {}, []
        for size in sizes:
            content = str(size).encode()
            names[hashlib.sha256(content).hexdigest()] = size
            path = tmp_path / f"{size}.onnx"
            path.write_bytes(content)
            answer = process.answer(messages.LoadRequest(hashlib.sha256(content).hexdigest(), str(path)))
            evicted.append([names[model] for model in answer.evicted])
        return evicted

    load.read_back = read_back
    return load


def test_the_backend_knows_in_which_power_mode_and_clocks_it_builds(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(backends, "open_backend", lambda *arguments: opened.extend(arguments) or Backend())

    worker.Worker().answer(configuration(tmp_path, power_mode="MAXN", clocks="locked"))

    assert backends.Conditions("MAXN", "locked") in opened


def test_engines_are_unloaded_by_what_they_occupy_and_not_by_the_size_of_their_models(loads):
    """A quarter of 400 MB is there for engines; the one used longest ago goes first."""
    assert loads(40, 41, 10, 42, 99) == [[], [], [], [40], [41, 10, 42]]


def test_an_engine_that_is_loaded_already_is_kept(loads):
    assert loads(40, 41, 40, 42) == [[], [], [], [41]]


def test_an_engine_larger_than_the_room_is_loaded_alone(loads):
    assert loads(20, 500, 21) == [[], [20], [500]]


def test_without_a_number_the_size_of_the_model_decides(loads):
    assert loads(0, 99, 20) == [[], [], [0, 99]]


def test_what_an_engine_runs_in_is_answered_with_its_size(loads):
    loads(40)
    found = loads.read_back(40)
    assert (found.ran_in, found.fell_back, found.engine_bytes) == ({"int8": 2, "fp32": 1}, ["head"], 7)
    assert found.evicted == []


def test_a_second_engine_for_the_read_back_gets_room_from_others_and_the_first_stays(loads, monkeypatch):
    monkeypatch.setattr(Backend, "engine", ApartEngine)
    loads(20, 21, 45)  # 86 of 100 MB; a second one of 45 MB has no room

    found = loads.read_back(45)

    assert [len(name) for name in found.evicted] == [64, 64]
    assert loads(45, 20) == [[], []]


def test_inputs_are_checked_without_being_in_memory_as_a_whole(tmp_path):
    path = tmp_path / "inputs.f32"
    with path.open("wb") as file:
        file.truncate(64 * MB)
    sha256 = hashlib.sha256(bytes(64 * MB)).hexdigest()

    tracemalloc.start()
    try:
        worker.check(str(path), sha256)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * MB


def test_damaged_inputs_are_refused(tmp_path):
    (tmp_path / "inputs.f32").write_bytes(b"1234")

    with pytest.raises(MeasureError, match="is damaged") as caught:
        worker.check(str(tmp_path / "inputs.f32"), "0" * 64)

    assert caught.value.code == "model"


@pytest.mark.parametrize(
    ("text", "fatal"),
    [("CUDA error 700: an illegal memory access was encountered", True), ("an attribute is missing", False)],
)
def test_an_error_of_any_kind_ends_the_process_where_cuda_is_lost(text, fatal):
    class Broken:
        def answer(self, request):
            raise RuntimeError(text)

    failure = worker._answer(Broken(), b'{"do": "rest", "seconds": 0.0}\n')

    assert (failure.fatal, failure.error.code) == (fatal, "run")
    assert text in failure.error.message and "free memory" not in failure.error.remedy
