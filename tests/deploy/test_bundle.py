"""What a board needs to build, feed and check a network; its runner is executed in a process of its own."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightnas_edge.cli import main
from lightnas_edge.data import load_data
from lightnas_edge.deploy import export_network
from lightnas_edge.deploy.bundle import build_commands, write_bundle
from lightnas_edge.errors import ExportError
from lightnas_edge.files import sha256_of_file
from lightnas_edge.runs import Run
from tests.deploy.conftest import SPACE
from tests.devices.test_agent_pythons import python36_with_runtime  # noqa: F401


@pytest.fixture
def bundle(run_folder, digits, tmp_path):
    return write(run_folder, digits, tmp_path / "bundle")


def write(run_folder, data, path, **options):
    run = Run.open(run_folder)
    return write_bundle(run, export_network(run, **options), data, path)


def check(folder, *argv, python=sys.executable):
    ended = subprocess.run(
        [str(python), str(folder / "check.py"), *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd="/",
    )
    return ended.returncode, ended.stdout + ended.stderr


def rehash(folder):
    """Hashes that hide a change, so that what the file says is looked at."""
    names = [line.split(None, 1)[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    (folder / "SHA256SUMS").write_text("".join(f"{sha256_of_file(folder / name)}  {name}\n" for name in names))


def test_a_bundle_checks_itself(bundle):
    code, said = check(bundle.path)
    assert code == 0, said
    assert said.splitlines()[-1] == "PASSED"
    assert "100% of 8 inputs get the expected class" in said


_WATCHED = """
import builtins, os
load = builtins.__import__

def watched(name, *arguments, **more):
    if name == "onnxruntime":
        print("at import:", os.environ.get("ORT_DISABLE_TELEMETRY"))
    module = load(name, *arguments, **more)
    if name == "onnxruntime":
        disable = module.disable_telemetry_events
        module.disable_telemetry_events = lambda: (print("disabled"), disable())
    return module

builtins.__import__ = watched
"""


def test_the_check_switches_the_runtimes_telemetry_off(bundle, tmp_path, monkeypatch):
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched/sitecustomize.py").write_text(_WATCHED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "watched"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)

    code, said = check(bundle.path)

    assert code == 0, said
    assert "at import: 1\n" in said
    assert "disabled\n" in said


@pytest.mark.parametrize(("precision", "dialect"), [("fp16", None), ("int8", "ort"), ("int8", "tensorrt")])
def test_bundles_in_every_precision_check_themselves(precision, dialect, run_folder, digits, tmp_path):
    made = write(
        run_folder,
        digits,
        tmp_path / "bundle",
        precision=precision,
        dialect=dialect,
        calibration=32 if precision == "int8" else None,
    )
    assert check(made.path)[0] == 0
    assert (made.path / "calibration.json").exists() == (precision == "int8")
    assert bool(made.record.build) == (dialect == "tensorrt")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_check_runs_under_python_3_6(precision, run_folder, digits, tmp_path, python36_with_runtime):  # noqa: F811
    """JetPack 4: ONNX Runtime 1.10, no Pillow."""
    made = write(
        run_folder, digits, tmp_path / "bundle", precision=precision, calibration=32 if precision == "int8" else None
    )
    code, said = check(made.path, python=python36_with_runtime)
    assert code == 0, said
    assert "ONNX Runtime 1.10.0" in said
    assert "the preprocessing is not checked" in said


def test_every_file_is_in_the_hashes_and_the_runner_is_short(bundle):
    listed = {line.split(None, 1)[1] for line in (bundle.path / "SHA256SUMS").read_text().splitlines()}
    found = {str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file()}
    assert found - listed == {"SHA256SUMS"}
    assert len((bundle.path / "check.py").read_text().splitlines()) < 100
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=bundle.path, check=False).returncode == 0


@pytest.mark.parametrize("name", ["model.onnx", "inputs.f32", "images/3.png", "bundle.json"])
def test_a_damaged_or_missing_file_is_found(name, bundle):
    content = bytearray((bundle.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / name).write_bytes(content)
    assert check(bundle.path) == (1, f"FAILED: {name} is missing or damaged\n")

    (bundle.path / name).unlink()
    assert check(bundle.path) == (1, f"FAILED: {name} is missing or damaged\n")


@pytest.mark.parametrize("spoil", [lambda outputs: outputs[:, ::-1], lambda outputs: outputs + np.float32(np.nan)])
def test_other_outputs_are_found(spoil, bundle):
    outputs = np.fromfile(bundle.path / "outputs.f32", "<f4").reshape(8, 10)
    spoil(outputs).tofile(bundle.path / "outputs.f32")
    rehash(bundle.path)
    code, said = check(bundle.path)
    assert (code, said.splitlines()[-1]) == (1, "FAILED: the outputs differ from those of the bundle")


def test_another_preprocessing_is_found(bundle):
    facts = json.loads((bundle.path / "bundle.json").read_text())
    facts["preprocessing"]["mean"] = [0.5, 0.5, 0.5]
    (bundle.path / "bundle.json").write_text(json.dumps(facts))
    rehash(bundle.path)
    code, said = check(bundle.path)
    assert code == 1
    assert "images/0.png, preprocessed here, differs by" in said


def test_an_engine_without_tensorrt_cannot_be_checked(bundle):
    code, said = check(bundle.path, "--engine", "model.engine")
    assert code == 2
    assert "cannot check: No module named 'tensorrt'" in said


def test_images_in_files_are_bundled_whole_so_that_the_cut_is_checked(run_folder, digits, tmp_path):
    """The network's input is cut out of 40 x 30 pixels."""
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(10):
            (tmp_path / "data" / part / str(label)).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(generator.integers(0, 256, (30, 40, 3), np.uint8)).save(
                    tmp_path / "data" / part / str(label) / f"{number}.png"
                )
    data = load_data(str(tmp_path / "data"), space=SPACE)
    run = Run.open(run_folder)
    made = write_bundle(run, export_network(run), data, tmp_path / "bundle")

    with Image.open(made.path / "images" / "0.png") as image:
        assert image.size == (40, 30)
    assert made.record.preprocessing.resize is not None
    assert check(made.path)[0] == 0


def test_bundled_images_are_as_training_sees_them(run_folder, tmp_path):
    """Upright and with all levels: check.py knows neither EXIF nor 16 bits."""
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "val"):
        for label in range(10):
            (tmp_path / "data" / part / str(label)).mkdir(parents=True)
            image = Image.fromarray(generator.integers(0, 2**16, (30, 40)).astype(np.uint16))
            image.save(tmp_path / "data" / part / str(label) / "0.png", exif=exif)
    data = load_data(str(tmp_path / "data"), space=SPACE)
    run = Run.open(run_folder)
    made = write_bundle(run, export_network(run), data, tmp_path / "bundle")

    with Image.open(made.path / "images" / "0.png") as image:
        assert (image.size, image.mode) == ((30, 40), "RGB")
    assert "EXIF" in made.record.preprocessing.decoding
    assert check(made.path)[0] == 0


def test_a_batch_is_filled_with_the_last_image(run_folder, digits, tmp_path):
    made = write(run_folder, digits, tmp_path / "bundle", batch=3)
    code, said = check(made.path)
    assert code == 0
    assert "9 inputs" in said


def test_the_command_line_writes_an_archive(run_folder, tmp_path, capsys):
    assert main(["export", str(run_folder), "--bundle", str(tmp_path / "net.zip")]) == 0
    assert f"bundle {tmp_path / 'net.zip'}" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "net.zip") as archive:
        archive.extractall(tmp_path)
    assert check(tmp_path / "net")[0] == 0


def test_without_a_path_the_bundle_is_a_folder_of_the_run(run_folder):
    assert main(["export", str(run_folder), "--bundle"]) == 0
    assert check(run_folder / "bundle")[0] == 0
    assert main(["export", str(run_folder), "--bundle"]) == 0, "a bundle is replaced"


def test_what_is_no_bundle_is_kept(run_folder, digits, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(ExportError, match="is there and is no bundle"):
        write(run_folder, digits, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_folder_with_hashes_that_is_no_bundle_is_kept(run_folder, digits, tmp_path):
    (tmp_path / "SHA256SUMS").write_text("of a download")
    with pytest.raises(ExportError, match="is there and is no bundle"):
        write(run_folder, digits, tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == "of a download"


def test_an_engine_that_was_built_in_a_bundle_is_kept(run_folder, digits, tmp_path):
    folder = tmp_path / "bundle"
    write(run_folder, digits, folder)
    (folder / "model.engine").write_text("half an hour of building")
    with pytest.raises(ExportError, match=r"files of yours in a bundle: model\.engine"):
        write(run_folder, digits, folder)
    assert (folder / "model.engine").exists()


@pytest.mark.parametrize(
    ("precision", "version", "flags"),
    [
        ("fp32", "8.0.1", "--workspace=512"),
        ("fp16", "8.2.1", "--fp16 --workspace=512"),
        ("int8", "8.5.2", "--int8 --fp16 --memPoolSize=workspace:512"),
        ("int8", "10.3.0", "--int8 --fp16 --memPoolSize=workspace:512"),
        ("int8", "11.4.0", "--memPoolSize=workspace:512"),
    ],
)
def test_the_build_command_has_the_flags_of_its_version(precision, version, flags):
    made = build_commands(precision, {"backend": "tensorrt", "backend_version": version}, "any")
    assert {key: command.partition("model.engine ")[2] for key, command in made.items()} == {version: flags}
    assert build_commands(precision, {"backend": "onnxruntime"}, f"tensorrt-{version}") == made


def test_a_target_is_read_in_every_spelling_that_export_takes():
    made = build_commands("fp16", {"backend": "onnxruntime"}, "tensorrt-8.2")
    assert list(made) == ["8.2"] and "--workspace" in made["8.2"]
    assert build_commands("fp16", {"backend": "onnxruntime"}, "TensorRT 8.2") == made
    assert build_commands("fp16", {"backend": "tensorrt", "backend_version": "8.5.2"}, "tensorrt 8.2") == made
    assert list(build_commands("fp16", {"backend": "tensorrt", "backend_version": "8.5.2"}, "tensorrt")) == ["8.5.2"]


def test_without_a_version_there_is_a_command_for_each_kind():
    assert list(build_commands("fp16", {"backend": "simulated"}, "any")) == ["8.0 to 8.3", "8.4 to 10", "11"]
    assert build_commands("fp32", {"backend": "onnxruntime"}, "any") == {}
