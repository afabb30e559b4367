"""Everything of TensorRT that the backend uses exists in NVIDIA's own bindings, version by version."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from profiler.backends import tensorrt as backend
from profiler.backends.tensorrt import network
from profiler.errors import MeasureError
from tests.profiler.tensorrt import older_api, record_api, standin, surface

RECORDED = ["8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"]
WHEEL_OF_THIS_PYTHON = "tensorrt_cu12_bindings==10.3.0"
ROOT = Path(__file__).parent.parent.parent.parent
SOURCES = sorted(Path(backend.__file__).parent.glob("*.py"))
NODES = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
# Attributes of our own objects and of the standard library that happen to have a name that TensorRT also uses.
OURS = {"code", "device", "engine", "flags", "log", "name", "precision", "shape", "update"}


def chains():
    """`trt.A` and `trt.A.B` in the backend, as ("A",) and ("A", "B")."""
    found = set()
    for node in NODES:
        names = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "self" and names[:1] == ["_trt"]:
            found.add(tuple(names[1:3]))
        elif isinstance(node, ast.Name) and node.id == "trt":
            found.add(tuple(names[:2]))
    return sorted(chain for chain in found if chain and not chain[0].startswith("__"))


def attributes():
    """Names of all attributes that the backend reads, sets or calls."""
    names = {node.attr for node in NODES if isinstance(node, ast.Attribute)}
    for node in NODES:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names.add(node.value)
    return names


def members(version):
    """Names of all methods and properties of a version."""
    classes = standin.load_api(version)["classes"].values()
    return {name for content in classes for group in ("methods", "properties") for name in content.get(group, {})}


def exercise(bench_of, version):
    """All that the backend does, once; the (class, member) pairs that it used."""
    bench = bench_of(version, version)
    strong = not hasattr(bench.trt.BuilderFlag, "FP16")
    for precision, model in (
        ("fp32", standin.conv_model(metadata={network.INNER_EDGES: "input output"})),
        ("fp16", standin.conv_model(fp16=strong)),
        ("int8", standin.quantized_model()),
    ):
        opened = bench.open(precision)
        opened.runtime()
        engine = opened.load(model)
        engine.run(1)
        engine.device_times(1)
        engine.peak_memory_mb()
        engine.evaluate(standin.floats(192))
        engine.layers()
        engine.close()
        opened.layer_profile(model, 1)
    bench.world.refuse.add("parse")
    with pytest.raises(MeasureError):
        bench.open().load(standin.conv_model(seed=9))
    return set(bench.world.used)


def test_every_class_and_enum_member_in_the_source_exists_in_some_version():
    apis = [standin.load_api(version) for version in standin.VERSIONS]
    for chain in chains():
        known = [api["classes"][chain[0]] for api in apis if chain[0] in api["classes"]]
        assert known, f"no version has tensorrt.{chain[0]}"
        if len(chain) == 2 and chain != ("ILogger", "Severity"):
            groups = ("members", "methods", "properties")
            assert any(chain[1] in content.get(group, {}) for content in known for group in groups), chain


def test_every_member_in_the_source_is_used_and_exists_in_the_bindings(bench_of):
    """The stand-in has no attribute, method or argument that the recorded version lacks, so running is checking."""
    used = {member for version in standin.VERSIONS for _, member in exercise(bench_of, version)}
    known = set().union(*(members(version) for version in standin.VERSIONS))

    never_run = (attributes() & known) - used - OURS - {"report_layer_time"}

    assert not never_run


@pytest.mark.parametrize("version", standin.VERSIONS)
def test_each_version_has_the_members_that_are_used_of_it(bench_of, version):
    classes = standin.load_api(version)["classes"]
    for owner, member in exercise(bench_of, version):
        if owner != "cuda":
            assert member in {**classes[owner]["methods"], **classes[owner]["properties"]}


@pytest.mark.parametrize("version", standin.VERSIONS)
def test_classes_that_we_derive_from_can_be_and_are_called_with_these_arguments(version):
    classes = standin.load_api(version)["classes"]
    expected = {
        "ILogger": {"log": ["severity", "msg"]},
        "IProfiler": {"report_layer_time": ["layer_name", "ms"]},
        "IProgressMonitor": {
            "phase_start": ["phase_name", "parent_phase", "num_steps"],
            "step_complete": ["phase_name", "step"],
            "phase_finish": ["phase_name"],
        },
    }
    for name, methods in expected.items():
        if name in classes:
            assert classes[name]["methods"]["__init__"] == [[]]
            for method, arguments in methods.items():
                assert classes[name]["methods"][method] == [arguments]
                assert ours(method) == ["self", *arguments]


def ours(method):
    (function,) = [node for node in NODES if isinstance(node, ast.FunctionDef) and node.name == method]
    return [argument.arg for argument in function.args.args]


def test_the_stand_in_refuses_what_a_version_lacks():
    trt = standin.make_module("8.2.1", standin.World())
    config = trt.Builder(trt.Logger()).create_builder_config()
    for wrong in (
        lambda: trt.TensorIOMode,
        lambda: config.set_memory_pool_limit,
        lambda: setattr(config, "max_workspace_sise", 1),
    ):
        with pytest.raises(AttributeError):
            wrong()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        config.set_timing_cache(None)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        config.set_flag(flagg=trt.BuilderFlag.FP16)
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.ICudaEngine()


def test_signatures_are_read_from_the_docstrings_of_pybind11():
    doc = """set_it(*args, **kwargs)
Overloaded function.

1. set_it(self: tensorrt.C, name: str, shape: Tuple[int, int] = (1, 2)) -> bool

2. set_it(self: tensorrt.C, call: Callable[[int], bool]) -> None
"""
    assert surface.parse_signatures("set_it", doc) == [["name", "shape?"], ["call"]]


@pytest.mark.parametrize("version", older_api.VERSIONS)
def test_older_surfaces_are_what_their_script_writes(version):
    assert json.dumps(standin.load_api(version), sort_keys=True) == json.dumps(
        older_api.derive(version), sort_keys=True
    )


def test_recorded_surfaces_name_the_wheel_they_come_from():
    for version in RECORDED:
        assert standin.load_api(version)["provenance"]["wheel_sha256"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with NVIDIA's own bindings. They are imported with empty libraries, in a process of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    for tool in ("gcc", "nm", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is needed to make libraries that the bindings can be imported with")
    found = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder,
         "--retries", "0", "--timeout", "5", WHEEL_OF_THIS_PYTHON],
        capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode != 0:
        pytest.skip(f"no package index with {WHEEL_OF_THIS_PYTHON} for this Python")
    (path,) = folder.glob("*.whl")
    return path


def test_a_surface_is_recorded_again_from_the_real_bindings(wheel):
    again, recorded = record_api.record(wheel), standin.load_api("10.3.0")

    for provenance in (again.pop("provenance"), recorded.pop("provenance")):
        assert provenance["wheel"].startswith("tensorrt_cu12_bindings-10.3.0-cp")
    assert again == recorded


# Nothing is built here: these classes are ours, and the module answers `hasattr`.
DERIVED = """
import tensorrt_bindings as trt
from profiler.backends.tensorrt import adaptors, bindings, builder

log = adaptors.make_log(trt)
log.log(trt.ILogger.Severity.ERROR, "no memory")
log.log(trt.ILogger.Severity.VERBOSE, "chatter")
assert isinstance(log, trt.ILogger) and log.take() == ["no memory"], log.take()

profiler = adaptors.make_profiler(trt)
profiler.report_layer_time("conv", 0.5)
profiler.report_layer_time("relu", 0.25)
assert isinstance(profiler, trt.IProfiler) and profiler.take() == [("conv", 0.5), ("relu", 0.25)]

if hasattr(trt, "IProgressMonitor"):
    adaptors.PROGRESS_INTERVAL_S, lines = 0.0, []
    monitor = adaptors.make_monitor(trt, "building", lines.append)
    monitor.phase_start("all", None, 3)
    assert monitor.step_complete("all", 0) is True
    monitor.phase_finish("all")
    assert isinstance(monitor, trt.IProgressMonitor) and lines == ["building: all, step 1 of 3"]

for precision in ("fp32", "fp16", "int8"):
    settings = builder.BuildSettings.choose(trt, precision, 1)
    assert all(hasattr(trt.BuilderFlag, name) for name in settings.flags)
    assert hasattr(trt.ProfilingVerbosity, settings.profiling_verbosity)
    print([builder._network_flags(trt), settings.flags, settings.profiling_verbosity, bindings.has_tensors(trt)])
"""


def test_our_classes_derive_from_the_real_ones_and_choices_follow_the_features_present(wheel):
    printed = record_api.run_with_bindings(wheel, DERIVED, path=ROOT).decode().splitlines()
    assert printed == [
        "[1, [], 'DETAILED', True]",
        "[1, ['FP16'], 'DETAILED', True]",
        "[1, ['FP16', 'INT8'], 'DETAILED', True]",
    ]
