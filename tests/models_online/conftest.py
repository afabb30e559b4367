"""Real files. `make test-models` downloads what is not here; `make test` leaves the folder out."""

import os
import sys
import zipfile
from pathlib import Path

import onnx.backend.test
import pytest

from tests.models_online import networks

FOLDER = os.environ.get("LIGHTNAS_EDGE_MODEL_WHEELS")  # that `make test-models` downloads to
WHEELS = None if FOLDER is None else Path(FOLDER).absolute()  # tests change the folder
WHEEL = "rapidocr_onnxruntime-1.4.4-py3-none-any.whl"
LIGHT = Path(onnx.backend.test.__path__[0]) / "data" / "light"

if WHEELS is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header():
    return None if WHEELS else "tests/models_online left out: `make test-models` runs it"


# Name -> the shapes that the file leaves open; for the files of the wheel, those that its own program uses.
OCR = {
    "ch_PP-OCRv4_det_infer": ["1x3x320x320"],
    "ch_PP-OCRv4_rec_infer": ["1x3x48x320"],
    "ch_ppocr_mobile_v2.0_cls_infer": ["1x3x48x192"],
}
EXPORTS = {"resnet": [], "mobilenet": [], "transformer": ["input_ids:1x32"]}
LIGHTS = sorted(path.stem for path in LIGHT.glob("*.onnx"))
SHAPES = {**{name: [] for name in LIGHTS}, **OCR, **EXPORTS}


@pytest.fixture(scope="session")
def find(tmp_path_factory):
    """Name of a file -> its path."""
    folder = tmp_path_factory.mktemp("files")

    def path_of(name):
        path = folder / f"{name}.onnx"
        if name in LIGHTS:
            return LIGHT / f"{name}.onnx"
        if not path.exists() and name in OCR:
            with zipfile.ZipFile(WHEELS / WHEEL) as wheel:
                path.write_bytes(wheel.read(f"rapidocr_onnxruntime/models/{name}.onnx"))
        elif not path.exists():
            networks.export(name, path)
        return path

    return path_of


def tell(text):
    """Progress, also where pytest captures output."""
    print(text, file=sys.__stderr__, flush=True)
