"""Engines are built before anything is timed, in a process of their own, with time and memory of their own."""

import json
import os
import signal

import pytest

# Puts a backend into the real agent: each model says in JSON how its build goes; every step is a line of its diary.
SCRIPTED = """
import importlib.machinery, json, os, signal, sys, time


class Loader:
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.loader.get_code(module.__name__), module.__dict__)
        module.open_backend = lambda *arguments, **options: make(module)


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "profiler.backends":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder)
home = os.environ["SCRIPTED_HOME"]


def note(what, name):
    with open(os.path.join(home, "diary"), "a") as file:
        file.write("{} {} {}\\n".format(os.getpid(), what, name))


def make(backends):
    from profiler.errors import MeasureError

    class Engine(backends.Engine):
        def run(self, repeats):
            time.sleep(0.0002 * repeats)

    class Scripted(backends.Backend):
        needs_build = True

        def fingerprint(self):
            return {"backend": "scripted", "precision": "fp32", "batch": 1, "threads": 1}

        def runtime(self):
            return {}

        def path(self, model):
            return os.path.join(home, json.loads(model)["name"] + ".engine")

        def is_built(self, model):
            return os.path.exists(self.path(model))

        def build(self, model, workspace_share=1.0):
            script = json.loads(model)
            note("build {:g}".format(workspace_share), script["name"])
            if script["build"] == "endless":
                time.sleep(3600)
            if script["build"] == "broken":
                raise MeasureError("load", "cannot parse the model", "export it again")
            if script["build"] == "crash" and not os.path.exists(self.path(model) + ".tried"):
                open(self.path(model) + ".tried", "w").close()
                os.kill(os.getpid(), signal.SIGSEGV)
            if script["build"] not in ("fine", "crash", "hangs when loaded") and workspace_share > script.get("most", 0.5):
                if script["build"] == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise MemoryError()
            open(self.path(model), "w").close()

        def load(self, model):
            note("load", json.loads(model)["name"])
            if json.loads(model)["build"] == "hangs when loaded":
                time.sleep(3600)
            return Engine()

    return Scripted()
"""


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """The diary of the backend that the agent has; {name: how its build goes} -> models."""
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "sitecustomize.py").write_text(SCRIPTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "scripted"))
    monkeypatch.setenv("SCRIPTED_HOME", str(tmp_path / "scripted"))

    class Scripted:
        @staticmethod
        def diary():
            return [line.split(" ", 1) for line in (tmp_path / "scripted" / "diary").read_text().splitlines()]

        @staticmethod
        def models(**builds):
            return {name: json.dumps({"name": name, "build": build}).encode() for name, build in builds.items()}

    return Scripted


def steps(scripted, verb):
    return [what for _, what in scripted.diary() if what.startswith(verb)]


def test_every_engine_is_built_before_the_first_is_loaded_and_by_another_process(agent, write_job, scripted, tools):
    job = write_job(scripted.models(a="fine", b="fine"))

    code, _, log = agent.run(job)

    assert code == 0
    diary = scripted.diary()
    assert [what.split()[0] for _, what in diary] == ["build", "build", "load", "load"]
    builder, measurer = {pid for pid, what in diary[:2]}, {pid for pid, what in diary[2:]}
    assert len(builder) == len(measurer) == 1 and builder != measurer
    assert "2 of 2 engines are to be built" in log
    assert all(visit["error"] is None for visit in tools.visits(job))


def test_what_was_built_is_not_built_again_and_a_finished_job_builds_nothing(agent, write_job, scripted):
    agent.run(write_job(scripted.models(a="fine"), rounds=1))
    agent.run(write_job(scripted.models(a="fine", b="fine"), rounds=1))
    for engine in ("a", "b"):
        os.remove(os.path.join(os.environ["SCRIPTED_HOME"], engine + ".engine"))

    agent.run(write_job(scripted.models(a="fine", b="fine"), rounds=1))

    assert sorted(steps(scripted, "build")) == ["build 1 a", "build 1 b"]


@pytest.mark.parametrize("how", ["killed", "memory"])
def test_a_build_that_wants_memory_is_tried_again_alone_with_a_quarter_of_the_workspace(
    agent, write_job, scripted, tools, how
):
    job = write_job(scripted.models(a="fine", hungry=how))

    code, _, log = agent.run(job)

    assert code == 0
    assert "building hungry again, alone and with a quarter of the workspace" in log
    tries = [(pid, what) for pid, what in scripted.diary() if what.endswith("hungry") and what.startswith("build")]
    assert [what for _, what in tries] == ["build 1 hungry", "build 0.25 hungry"]
    assert tries[0][0] != tries[1][0]
    assert all(visit["error"] is None for visit in tools.visits(job))


def test_a_process_that_dies_while_building_costs_the_model_nothing(agent, write_job, scripted, tools):
    job = write_job(scripted.models(unlucky="crash"))

    code, _, log = agent.run(job)

    assert code == 0
    assert steps(scripted, "build") == ["build 1 unlucky", "build 1 unlucky"]
    assert "building unlucky again, alone" in log
    assert all(visit["error"] is None for visit in tools.visits(job))


def test_an_engine_that_cannot_be_built_is_one_line_with_its_error_and_the_rest_is_measured(
    agent, write_job, scripted, tools
):
    models = scripted.models(a="fine", broken="broken")
    models["vast"] = json.dumps({"name": "vast", "build": "memory", "most": 0.1}).encode()
    job = write_job(models, rounds=3)

    code, answer, _ = agent.run(job)

    assert code == 0
    errors = [(visit["key"], visit["error"]["code"]) for visit in tools.visits(job) if visit["error"]]
    assert sorted(errors) == [("broken", "load"), ("vast", "memory")]
    assert len([visit for visit in tools.visits(job) if visit["key"] == "a" and not visit["error"]]) == 3
    assert sorted(set(steps(scripted, "load"))) == ["load a"]
    assert answer["message"].endswith("failed: broken, vast")


def test_a_build_has_a_time_limit_of_its_own_and_the_remedy_names_the_option(agent, write_job, scripted, tools):
    job = write_job(scripted.models(endless="endless", a="fine"), timeout_s=60.0, build_timeout_s=1.5)

    agent.run(job)

    (error,) = [visit["error"] for visit in tools.visits(job) if visit["error"]]
    assert (error["code"], error["message"]) == ("timeout", "no answer to `build` within 1.5 s")
    assert "--build-timeout" in error["remedy"]


def test_an_engine_that_was_built_has_the_usual_time_to_load(agent, write_job, scripted, tools):
    """It is not built again, so that a load that hangs must not last as long as a build may."""
    models = scripted.models(**{"stuck": "hangs when loaded"})
    job = write_job(models, rounds=1, timeout_s=1.5, build_timeout_s=3600.0)

    agent.run(job)

    errors = [visit["error"] for visit in tools.visits(job)]
    assert [(error["code"], error["message"]) for error in errors] == [("timeout", "no answer to `load` within 1.5 s")]


def test_while_an_engine_is_built_the_status_names_it_and_keeps_changing(agent, write_job, scripted, tools):
    job = write_job(scripted.models(a="fine", endless="endless"))

    def status():
        found = json.loads((job / "status.json").read_text()) if (job / "status.json").exists() else {}
        return found if found.get("key") == "endless" else None

    with agent.start(job) as process:
        first = tools.wait_for(status, "the build")
        later = tools.wait_for(lambda: (now := status())["elapsed_s"] > first["elapsed_s"] and now, "a sign of life")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert (later["phase"], later["done"], later["total"], later["state"]) == ("building", 1, 2, "running")
    assert process.returncode == 130
