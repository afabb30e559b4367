"""The wheel alone is enough: installed where nothing of ours is, run from an empty folder."""

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy of what git would hand out, so that leftovers of this folder cannot help.
    source = folder / "source"
    source.mkdir()
    for name in (
        "devices",
        "lightnas_edge",
        "luts",
        "profiler",
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
    ):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True, timeout=200)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment of its own that holds our wheel, and sees the dependencies but no other copy of us.

    The dependencies are taken from the environment that runs the tests, through a .pth file: paths in it are searched,
    but an editable installation (itself a .pth file) found there is not followed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (dependencies,) = {path for path in sys.path if path.endswith("site-packages") and Path(path, "numpy").is_dir()}
    (site / "dependencies.pth").write_text(dependencies + "\n")
    return folder / "bin" / "python"


def run(python, *argv, cwd, home):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["LIGHTNAS_EDGE_HOME"] = str(home)
    return subprocess.run(
        [str(python), "-c", "import sys; from lightnas_edge import cli; sys.exit(getattr(cli, sys.argv.pop(1))())", *argv],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_the_wheel_holds_spaces_boards_and_the_agent(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    for needed in (
        "lightnas_edge/space/built_in/lightnas.toml",
        "lightnas_edge/deploy/bundle_files/check.py",
        "devices/catalog/generic-linux.json",
        "luts/reference/xavier-lightnas-b8.predictor.json",
        "profiler/__main__.py",
        "profiler/backends/onnxruntime.py",
    ):
        assert needed in names
    assert any(name.startswith("lightnas_edge/report/templates/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "studies/", "docs/"))]
    (metadata,) = [name for name in names if name.endswith("METADATA")]
    assert "Apache-2.0" in zipfile.ZipFile(wheel).read(metadata).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_data_file_of_the_wheel_is_in_the_notice_with_its_source_and_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    (notice,) = [name for name in archive.namelist() if name.endswith("licenses/NOTICE")]
    rows = [
        line.strip("| ").split(" | ") for line in archive.read(notice).decode().splitlines() if line.startswith("| ")
    ]
    listed = {pattern: (source, licence) for pattern, source, licence in rows[1:]}
    data = [name for name in archive.namelist() if not name.endswith(".py") and ".dist-info/" not in name]

    assert len(data) > 20
    assert [name for name in data if not any(fnmatch(name, pattern) for pattern in listed)] == []
    assert [pattern for pattern in listed if not any(fnmatch(name, pattern) for name in data)] == []
    assert all(source and licence == "Apache-2.0" for source, licence in listed.values())
    for path in (ROOT / "devices" / "catalog").glob("*.json"):  # the notice refers to them
        assert json.loads(path.read_text(encoding="utf-8"))["sources"], path.name


def test_the_wheel_profiles_and_searches_from_an_empty_folder(installed, tmp_path):
    folder, home = tmp_path / "empty", tmp_path / "home"
    folder.mkdir()

    where = run(installed, "main", "--version", cwd=folder, home=home)
    assert where.returncode == 0, where.stderr
    profile = run(
        installed, "profile_device", "--host", "localhost", "--space", "tiny", "--rounds", "3", "--out", "t.lut.jsonl",
        cwd=folder, home=home,
    )  # fmt: skip
    assert profile.returncode == 0, profile.stderr
    assert "24 of 24 measured" in profile.stdout

    search = run(
        installed, "main", "search", "--space", "tiny", "--lut", "t.lut.jsonl", "--data", "digits",
        "--latency-ms", "1000", "--force", "--epochs", "2", "--warmup-epochs", "1", "--out", "run",
        cwd=folder, home=home,
    )  # fmt: skip
    assert search.returncode == 0, search.stderr
    architecture = json.loads((folder / "run" / "architecture.json").read_text())
    assert len(architecture["operators"]) == 8


def put_over(site, name, distribution):
    """What `pip install` of a foreign package does to ours: its files replace those of the same name."""
    (site / name / "__init__.py").write_text('"""Look-up tables of another trade."""\n')
    about = site / f"{distribution}-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9.9\n")
    (about / "RECORD").write_text(f"{name}/__init__.py,,\n{distribution}-9.9.dist-info/METADATA,,\n")


@pytest.mark.parametrize("name", ["luts", "profiler", "devices"])
def test_a_foreign_package_in_the_place_of_one_of_ours_is_named(wheel, installed, tmp_path, name):
    (before,) = installed.parent.parent.glob("lib/python*/site-packages")
    venv.create(tmp_path / "environment", with_pip=False)
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text((before / "dependencies.pth").read_text())
    put_over(site, name, f"some-{name}")

    for command in ("main", "profile_device"):
        found = run(
            tmp_path / "environment" / "bin" / "python", command, "--version", cwd=tmp_path, home=tmp_path / "home"
        )

        assert found.returncode == 1
        assert f"the package {name} of some-{name} has taken the place of a part of lightnas-edge" in found.stderr
        assert f"pip uninstall some-{name}" in found.stderr
        assert "Traceback" not in found.stderr


def test_the_workflow_tests_the_pythons_that_the_package_names_with_targets_that_exist():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)$", text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = {target for step in steps for target in re.findall(r"^make (\S+)", step.get("run", ""))}

    assert named == ["3.11", "3.12", "3.13"]
    assert all(
        job["strategy"]["matrix"]["python"] == named for name, job in workflow["jobs"].items() if name != "wheel"
    )
    assert targets == {"check", "test", "wheel"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert not re.search(r"https?://", str(workflow))  # indexes are the repository's own variables
