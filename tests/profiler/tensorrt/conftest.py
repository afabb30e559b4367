"""The stand-in, once for each version."""

import pytest

from profiler.backends.tensorrt import TensorRT
from tests.profiler.tensorrt import standin


class Bench:
    """A backend over one version's stand-in, and everything around it."""

    def __init__(self, version, home):
        self.version, self.home = version, home
        self.world = standin.World()
        self.trt = standin.make_module(version, self.world)
        self.cuda = standin.HostCuda(self.world)
        self.lines = []

    def open(self, precision="fp32", batch=1, **options):
        options = dict({"library": self.trt, "cuda": self.cuda, "release_file": "/nowhere"}, **options)
        return TensorRT(precision, batch, 1, str(self.home), progress=self.lines.append, **options)


@pytest.fixture(params=standin.VERSIONS)
def bench(request, tmp_path):
    return Bench(request.param, tmp_path / "home")


@pytest.fixture
def bench_of(tmp_path):
    """A bench of one version."""
    return lambda version, home="home": Bench(version, tmp_path / home)
