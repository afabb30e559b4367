"""Fixtures that every part of the tests may use."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and every process that a test interrupts would inherit that.
for _signum, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _handler)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of recorded measurements and images that is not part of the project."""
    folder = Path(os.environ.get("LIGHTNAS_EDGE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recorded data at {folder}; set LIGHTNAS_EDGE_DATA to a folder that holds it")
    return folder


@pytest.fixture
def agent_home(tmp_path, monkeypatch):
    """A home of its own for the agent, so that tests leave the user's alone and do not wait for each other."""
    home = tmp_path / "agent-home"
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def torchvision():
    """The extra `recipes`, importable."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install 'lightnas-edge[recipes]'")
    from tests.torchvision_operators import declare_missing

    declare_missing()
