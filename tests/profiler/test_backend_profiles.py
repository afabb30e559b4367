"""What each backend writes of the layers of a model is what the host reads. They share no code: the agent is packed alone."""

import json

import pytest

from devices.virtual import make_board
from lightnas_edge.records.model_profile import LayerProfileFile
from profiler import backends
from profiler.backends.simulated import Simulated
from profiler.backends.tensorrt import TensorRT
from profiler.system import System
from tests.profiler.tensorrt import standin
from tests.profiler.test_onnxruntime_backend import residual_model


def simulated(tmp_path):
    make_board(tmp_path / "board", "jetson-nano")
    return Simulated("fp32", None, 1, System(str(tmp_path / "board")))


def onnxruntime(tmp_path):
    return backends.open_backend("onnxruntime", "fp32", None, 1, str(tmp_path))


def tensorrt(tmp_path):
    """Without a GPU: a stand-in, of which no number is a measurement."""
    world = standin.World()
    return TensorRT(
        "fp32", None, 1, str(tmp_path), library=standin.make_module("10.3.0", world), cuda=standin.HostCuda(world)
    )


@pytest.mark.parametrize("open_backend", [simulated, onnxruntime, tensorrt])
@pytest.mark.parametrize("model", [residual_model, standin.token_model, standin.conv_model])
def test_the_host_reads_the_layer_profile_of_every_backend(open_backend, model, tmp_path):
    written = open_backend(tmp_path).layer_profile(model(), 3)

    path = tmp_path / "key.layers.json"
    path.write_text(json.dumps(written, allow_nan=False))
    read = LayerProfileFile.load(path)

    assert read.source == open_backend.__name__ and read.runs == 3
    assert len(read.layers) == len(written["layers"]) > 0
    assert len({layer.name for layer in read.layers}) == len(read.layers)
