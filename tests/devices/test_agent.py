"""The agent on real jobs: nothing that happens to it loses or doubles a measurement."""

import fcntl
import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from devices import LocalConnection
from lightnas_edge.graph import Arithmetic, model_bytes, operator_model
from lightnas_edge.space import load_space


def pairs(visits):
    return sorted((visit["key"], visit["round"]) for visit in visits if visit["error"] is None)


def expected(keys, rounds):
    return sorted((key, round_) for key in keys for round_ in range(rounds))


def test_a_job_is_measured_in_rounds_and_every_sample_is_kept(agent, write_job, tools):
    job = write_job(rounds=3)

    code, answer, _ = agent.run(job)

    assert (code, answer["state"]) == (0, "done")
    header, *visits = tools.lines(job / "journal.jsonl")
    assert header["fingerprint"]["backend"] == "onnxruntime"
    assert header["fingerprint"]["provider"] == "CPUExecutionProvider"
    assert header["energy"]["available"] or header["energy"]["reason"]
    assert all(visit["energy"] is None for visit in visits)
    assert pairs(visits) == expected("ab", 3)
    for visit in visits:
        assert len(visit["samples_ms"]) == 2
        assert min(visit["samples_ms"] + visit["warmup_ms"]) > 0
        assert visit["repeats"] >= 1
        assert visit["before"]["memory_available_mb"] > 0
        assert "foreign_cpu" in visit["after"]
    status = json.loads((job / "status.json").read_text())
    assert (status["state"], status["done"], status["total"], status["failed"]) == ("done", 6, 6, 0)
    assert "inside timed loops" in status["message"]


def test_the_agent_reports_its_memory_and_takes_little_besides_the_runtime(agent, write_job):
    inputs = np.zeros((2**14, 8), np.float32)
    code, answer, log = agent.run(write_job(inputs=inputs))
    memory = answer["memory"]

    assert code == 0
    assert 0 < memory["runtime_mb"] < memory["measuring_mb"]
    assert memory["agent_mb"] + memory["measuring_mb"] - memory["runtime_mb"] < 150
    assert "peak memory: agent {:.0f} MB".format(memory["agent_mb"]) in log


def test_a_finished_job_has_nothing_left_to_do(agent, write_job):
    job = write_job()
    agent.run(job)
    before = (job / "journal.jsonl").read_bytes()

    code, _, log = agent.run(job)

    assert code == 0
    assert "4 of 4 visits are in the journal already" in log
    assert (job / "journal.jsonl").read_bytes() == before


def test_more_rounds_add_to_what_is_there(agent, write_job, tools):
    agent.run(write_job(rounds=1))
    job = write_job(rounds=3)

    agent.run(job)

    assert pairs(tools.visits(job)) == expected("ab", 3)
    assert len({visit["session"] for visit in tools.visits(job)}) == 2


def test_killed_again_and_again_it_loses_and_doubles_nothing(agent, write_job, tools):
    keys = "abcd"
    job = write_job({key: write_job.scale_model(number) for number, key in enumerate(keys, 1)}, rounds=40)
    journal = job / "journal.jsonl"
    for goal in (10, 40, 80):
        with agent.start(job) as process:
            tools.wait_for(lambda goal=goal: tools.line_count(journal) >= goal, f"{goal} lines")
            process.kill()

    code, _, _ = agent.run(job)

    assert code == 0
    assert pairs(tools.visits(job)) == expected(keys, 40)
    assert len(tools.visits(job)) == 160


def test_torn_and_damaged_lines_are_named_and_measured_again(agent, write_job, tools):
    job = write_job()
    agent.run(job)
    journal = job / "journal.jsonl"
    whole = journal.read_bytes().splitlines(keepends=True)
    lost = json.loads(whole[2])
    damaged = whole[2].replace(b'"samples_ms":[', b'"samples_ms":[9')
    journal.write_bytes(b"".join([*whole[:2], damaged, *whole[3:], b'{"kind":"visit"']))

    code, _, log = agent.run(job)

    assert code == 0
    assert "line 3: checksum differs; measured again" in log
    assert "line 6: cut off after 15 bytes; removed" in log
    after = journal.read_bytes().splitlines(keepends=True)
    assert after[:5] == [*whole[:2], damaged, *whole[3:]]
    again = json.loads(after[5])
    assert (again["key"], again["round"]) == (lost["key"], lost["round"])
    assert len(after) == 6


def test_another_fingerprint_is_refused_and_the_difference_named(agent, write_job):
    job = write_job()
    agent.run(job)
    before = (job / "journal.jsonl").read_bytes()

    code, answer, _ = agent.run(write_job(threads=2))

    assert (code, answer["code"]) == (1, "journal")
    assert "threads (journal: 1, now: 2)" in answer["message"]
    assert json.loads((job / "status.json").read_text())["state"] == "failed"
    assert (job / "journal.jsonl").read_bytes() == before


def test_another_space_is_refused(agent, write_job):
    agent.run(write_job())

    _, answer, _ = agent.run(write_job(space_sha256="6" * 64))

    assert 'space (journal: "555555555555", now: "666666666666")' in answer["message"]


def test_a_precision_the_engine_lacks_is_refused(agent, write_job):
    code, answer, _ = agent.run(write_job(precision="fp16"))

    assert (code, answer["code"]) == (1, "backend")
    assert "not in fp16" in answer["message"]


def test_a_cuda_graph_is_refused_by_an_engine_without_one(agent, write_job):
    code, answer, _ = agent.run(write_job(cuda_graph=True))

    assert (code, answer["code"]) == (1, "backend")
    assert "has no CUDA graphs" in answer["message"] and "without --cuda-graph" in answer["remedy"]


def test_models_that_cannot_be_used_are_lines_with_errors_and_the_rest_continues(agent, write_job, tools):
    good, corrupt = write_job.scale_model(2), write_job.scale_model(3)
    job = write_job(
        {"good": good, "corrupt": corrupt, "nonsense": b"not a model", "batch4": write_job.scale_model(2, (4, 8))}
    )
    row = json.loads((job / "manifest.json").read_text())["measurements"][1]
    (job / "models" / f"{row['model']}.onnx").write_bytes(corrupt[:-1] + b"?")

    code, answer, _ = agent.run(job)

    assert code == 0
    assert answer["message"].endswith("failed: batch4, corrupt, nonsense")
    visits = tools.visits(job)
    assert pairs(visits) == expected(["good"], 2)
    errors = {visit["key"]: visit["error"] for visit in visits if visit["error"]}
    assert errors["corrupt"]["code"] == "model"
    assert "is damaged: its SHA-256 begins with" in errors["corrupt"]["message"]
    assert errors["nonsense"]["code"] == "load"
    assert "shape [4, 8]; this job's batch size is 1" in errors["batch4"]["message"]
    assert all(visit["samples_ms"] == [] for visit in visits if visit["error"])
    assert json.loads((job / "status.json").read_text())["failed"] == 3


def test_what_failed_is_tried_again_by_the_next_session(agent, write_job, tools):
    content = write_job.scale_model(2)
    job = write_job({"a": content})
    model = next((job / "models").iterdir())
    model.rename(job / "away")
    agent.run(job)
    (job / "away").rename(model)

    agent.run(job)

    assert [bool(visit["error"]) for visit in tools.visits(job)] == [True, True, False, False]


def test_a_hanging_engine_costs_its_own_visits_and_is_left_alone_after_two(agent, write_job, tools):
    job = write_job({"a": write_job.scale_model(2), "endless": write_job.endless_model()}, rounds=3, timeout_s=1.5)

    code, _, _ = agent.run(job)

    assert code == 0
    visits = tools.visits(job)
    failed = [visit["error"] for visit in visits if visit["key"] == "endless"]
    assert [error["code"] for error in failed] == ["timeout", "timeout"]
    assert "no answer to `visit` within 1.5 s" in failed[0]["message"]
    assert pairs(visits) == expected("a", 3)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def test_a_killed_measuring_process_costs_one_visit(agent, write_job, tools):
    job = write_job({"a": write_job.scale_model(2), "endless": write_job.endless_model()})
    journal = job / "journal.jsonl"
    with agent.start(job) as process:
        for lines in (2, 4):  # the header and a; the crash and a. In both rounds the endless model comes next.
            tools.wait_for(lambda lines=lines: tools.line_count(journal) == lines, f"{lines} lines")
            os.kill(children(process.pid)[0], signal.SIGKILL)
        process.communicate(timeout=60)

    visits = tools.visits(job)
    assert process.returncode == 0
    assert pairs(visits) == expected("a", 2)
    assert [visit["error"]["message"] for visit in visits if visit["error"]] == [
        "the measuring process was killed (SIGKILL): most likely memory ran out"
    ] * 2


# ONNX Runtime as it is, except that a model that multiplies by 13 ends as an illegal access on a GPU does.
LOST_GPU = """
import importlib, os, sys
here = os.path.dirname(os.path.abspath(__file__))
sys.path.remove(here)
del sys.modules["onnxruntime"]
real = importlib.import_module("onnxruntime")
sys.path.insert(0, here)


class InferenceSession(real.InferenceSession):
    def __init__(self, model, *arguments, **options):
        super().__init__(model, *arguments, **options)
        self.unlucky = b"\\x00\\x00\\x50\\x41" in model  # 13.0 as float32
        with open(os.path.join(here, "processes"), "a") as file:
            file.write("{}\\n".format(os.getpid()))

    def run_with_iobinding(self, binding):
        if self.unlucky:
            from profiler.cuda import CudaError
            raise CudaError("cudaStreamSynchronize", 700, "cudaErrorIllegalAddress", "an illegal memory access")
        super().run_with_iobinding(binding)


real.InferenceSession = InferenceSession
"""


def test_a_cuda_error_is_a_line_and_the_campaign_continues_in_a_new_process(
    agent, write_job, tools, tmp_path, monkeypatch
):
    """After such an error nothing that the process does with the GPU works any more: it must not be used again."""
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "onnxruntime.py").write_text(LOST_GPU)
    packages = os.path.dirname(os.path.dirname(onnxruntime.__file__))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'lost'}{os.pathsep}{packages}")
    models = {"a": write_job.scale_model(2), "b": write_job.scale_model(3), "unlucky": write_job.scale_model(13)}
    job = write_job(models, rounds=3)

    code, answer, _ = agent.run(job)

    visits = tools.visits(job)
    assert (code, answer["state"]) == (0, "done")
    assert pairs(visits) == expected("ab", 3)
    errors = [visit["error"] for visit in visits if visit["error"]]
    assert [error["code"] for error in errors] == ["run", "run"]
    assert "cudaStreamSynchronize failed with error 700 (cudaErrorIllegalAddress)" in errors[0]["message"]
    used = (tmp_path / "lost" / "processes").read_text().split()
    assert len(set(used)) >= 2  # the process in which it happened measures nothing more


def test_memory_that_runs_out_ends_the_measuring_process_and_not_the_agent(agent, write_job, tools):
    """The kernel ends the process with the highest score first."""
    job = write_job({"endless": write_job.endless_model()})
    with agent.start(job) as process:
        tools.wait_for(lambda: tools.line_count(job / "journal.jsonl") == 1, "the header")
        scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (process.pid, *children(process.pid))]
        process.kill()

    assert scores[1] > scores[0]


def test_the_measuring_process_does_not_outlive_a_killed_agent(agent, write_job, tools):
    job = write_job({"endless": write_job.endless_model()})
    with agent.start(job) as process:
        tools.wait_for(lambda: tools.line_count(job / "journal.jsonl") == 1, "the header")
        (worker,) = children(process.pid)
        process.kill()

    tools.wait_for(lambda: not LocalConnection().signal(worker, 0), "its end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_agent_ends_cleanly_and_continues_later(agent, write_job, tools, number):
    job = write_job(rounds=5000)
    with agent.start(job) as process:
        tools.wait_for(lambda: tools.line_count(job / "journal.jsonl") > 5, "some visits")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert json.loads(output)["code"] == "interrupted"
    assert json.loads((job / "status.json").read_text())["state"] == "interrupted"
    measured = pairs(tools.visits(job))
    assert len(measured) == len(set(measured)) > 4


def test_an_engine_that_hangs_does_not_keep_the_agent_from_stopping(agent, write_job, tools):
    job = write_job({"endless": write_job.endless_model()})
    with agent.start(job) as process:
        tools.wait_for(lambda: tools.line_count(job / "journal.jsonl") == 1, "the header")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130
    assert tools.visits(job) == []


def test_a_full_disk_loses_nothing(agent, write_job, tools):
    job = write_job(rounds=20)

    def small_disk():  # a limit on the size of files answers like a full disk, without needing one
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    code, answer, _ = agent.run(job, preexec_fn=small_disk)

    assert (code, answer["code"]) == (74, "disk-full")
    assert "free some space" in answer["remedy"]
    status = json.loads((job / "status.json").read_text())
    assert status["state"] == "failed"
    assert "no room left" in status["message"]
    kept = tools.visits(job)
    assert 0 < len(kept) < 40

    agent.run(job)

    assert tools.visits(job)[: len(kept)] == kept
    assert pairs(tools.visits(job)) == expected("ab", 20)


def test_a_second_agent_is_refused_with_the_holder(agent, write_job):
    job = write_job()
    agent.home.mkdir()
    identity = {"boot_id": "a boot", "start_ticks": 1, "command": "c"}
    holder = {"pid": os.getpid(), **identity, "job": "ffff", "started": "2026-11-23T19:00:00Z"}
    with open(agent.home / "agent.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps(holder))
        lock.flush()

        code, answer, _ = agent.run(job)

    assert (code, answer["code"], answer["holder"]) == (75, "locked", holder)
    assert f"pid {os.getpid()}, job ffff, since 2026-11-23T19:00:00Z" in answer["message"]
    assert not (job / "status.json").exists()


def test_an_evaluation_writes_what_the_model_computes(agent, write_job):
    inputs = np.arange(40 * 8, dtype=np.float32).reshape(40, 8)
    job = write_job({"a": write_job.scale_model(2, (2, 8))}, inputs=inputs, batch=2)

    code, _, _ = agent.run(job)

    assert code == 0
    outputs = np.fromfile(job / "outputs" / "a.f32", dtype="<f4").reshape(40, 8)
    np.testing.assert_array_equal(outputs, 2 * inputs)
    assert os.listdir(job / "outputs") == ["a.f32"]


def test_an_evaluation_on_damaged_inputs_yields_no_output(agent, write_job):
    job = write_job(inputs=np.ones((4, 8)))
    next((job / "data").iterdir()).write_bytes(b"\0" * 128)

    _, answer, _ = agent.run(job)

    assert "evaluation of a failed" in answer["message"]
    assert "is damaged" in answer["message"]
    assert os.listdir(job / "outputs") == []


def test_a_runtime_that_takes_its_process_down_is_reported_by_the_probe(agent, tmp_path, monkeypatch):
    """TensorRT without a usable GPU is known to do so."""
    (tmp_path / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    ended = subprocess.run(agent.argv("probe"), capture_output=True, check=False, timeout=120)

    answer = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert answer["runtime"] is None
    assert answer["error"]["message"] == "the measuring process did not start: the measuring process died of SIGSEGV"


# What it ran in


def operator(arithmetic=None, key="mbconv_k3_e3"):
    """A block of `tiny` as ONNX."""
    space = load_space("tiny")
    shaped = next(each for each in space.shaped_operators() if each.key.startswith(key + "@"))
    return model_bytes(operator_model(shaped, arithmetic=arithmetic or Arithmetic()))


def test_the_first_visit_of_each_key_in_a_session_says_what_it_ran_in(agent, write_job, tools):
    job = write_job({"a": operator(), "b": write_job.scale_model(2, (1, 8))})
    agent.run(job)
    write_job({"a": operator(), "b": write_job.scale_model(2, (1, 8))}, rounds=3)
    agent.run(job)

    found = {key: [visit["ran_in"] for visit in tools.visits(job) if visit["key"] == key] for key in "ab"}

    assert found == {"a": [{"fp32": 3}, None, {"fp32": 3}], "b": [{}, None, {}]}
    assert {(tuple(visit["fell_back"]), visit["engine_bytes"]) for visit in tools.visits(job)} == {((), None)}


def test_a_quantised_operator_ran_in_int8(agent, write_job, tools):
    job = write_job({"a": operator(Arithmetic("int8", "ort"))}, precision="int8")

    agent.run(job)

    header, first, _ = tools.lines(job / "journal.jsonl")
    assert first["ran_in"] == {"int8": 3} and first["fell_back"] == []
    assert header["fingerprint"]["dialect"] == "ort"


def test_a_read_back_that_fails_costs_a_warning_and_not_the_visit(agent, write_job, tools):
    """No file may grow beyond 8 KB: the optimised graph does, a journal of this size does not."""
    job = write_job({"a": operator(key="stem"), "b": operator()})

    code, _, log = agent.run(job, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))

    visits = tools.visits(job)
    assert code == 0 and {visit["error"] for visit in visits} == {None} and len(visits) == 4
    warned = [visit for visit in visits if any("what it ran in is not known" in text for text in visit["warnings"])]
    assert [(visit["key"], visit["ran_in"], visit["round"]) for visit in warned] == [("b", None, 0)]
    assert "b: what it ran in is not known" in log


@pytest.mark.parametrize(("module", "package"), [("_ctypes", "libffi-dev"), ("fcntl", "libc6-dev")])
def test_a_python_that_lacks_a_part_says_so_in_one_line(agent, write_job, tmp_path, module, package):
    """As one that was built without the headers of a system library."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / f"{module}.py").write_text(f"raise ImportError(\"No module named '{module}'\")\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "without")}

    code, answer, log = agent.run(write_job(), env=environment)

    assert (code, answer["kind"], answer["code"]) == (1, "error", "python")
    assert f"lacks its module {module.lstrip('_')}: No module named '{module}'" in answer["message"]
    assert f"apt-get install {package}" in answer["remedy"]
    assert log == ""


def test_onnx_runtime_sends_no_telemetry(agent, write_job, tmp_path):
    """With telemetry on, version 1.32 starts a session file in the folder for temporary files when it is imported."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()

    ended = subprocess.run(
        agent.argv("probe"), env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, check=True
    )

    assert json.loads(ended.stdout)["runtime"]["onnxruntime"] == onnxruntime.__version__
    assert list(scratch.iterdir()) == []


def test_what_a_killed_agent_left_in_its_scratch_folder_goes_with_the_next_one(agent, write_job):
    (agent.home / "scratch" / "lightnas-edge-abc").mkdir(parents=True)

    code, _, _ = agent.run(write_job())

    assert code == 0 and not (agent.home / "scratch").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_leaves_the_journal_whole_and_says_so(agent, write_job, tools, signum):
    job = write_job(rounds=100000)
    with agent.start(job) as process:
        tools.wait_for(lambda: tools.line_count(job / "journal.jsonl") > 3, "visits")
        process.send_signal(signum)
        process.communicate(timeout=60)

    assert process.returncode == 130
    assert json.loads((job / "status.json").read_text())["state"] == "interrupted"
    assert tools.visits(job)
