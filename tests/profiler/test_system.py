"""Tools of a machine, run to their end."""

import os
import resource

import pytest

from profiler.system import System, readable

ABOVE_SELECT = 1100  # `select` takes descriptors up to 1023


@pytest.fixture
def many_open_files():
    """So many that new ones have numbers that `select` does not take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ABOVE_SELECT + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine lets a process open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    files = []
    try:
        while not files or files[-1] < ABOVE_SELECT:
            files.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for each in files:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_tool_is_run_by_a_process_that_holds_many_files(many_open_files):
    assert System().output_of(["echo", "MAXN"]) == "MAXN\n"


def test_a_wait_longer_than_poll_takes_is_no_error(tmp_path):
    with open(__file__) as file:
        assert readable([file.fileno()], 1e9)
