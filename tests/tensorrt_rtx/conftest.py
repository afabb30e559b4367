"""Everything here runs NVIDIA's builder for RTX GPUs, which builds without a GPU. Set up by `make test-tensorrt`."""

import importlib.metadata

import pytest

PACKAGES = ("tensorrt-rtx-cu12-libs", "tensorrt-rtx-cu12-bindings")


def installed(package):
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


if not all(map(installed, PACKAGES)):
    collect_ignore_glob = ["test_*.py"]
else:
    import tensorrt_rtx_bindings  # noqa: F401
    import tensorrt_rtx_libs  # noqa: F401  # where it is installed it must import: an error here fails the tests


def pytest_report_header():
    if not all(map(installed, PACKAGES)):
        return "tests/tensorrt_rtx left out: NVIDIA's builder is not installed; `make test-tensorrt` installs it"
    return None


@pytest.fixture(scope="session")
def version():
    return importlib.metadata.version(PACKAGES[1])
