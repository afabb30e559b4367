"""The agent's side knows which engines its measuring process holds."""

import pytest

from profiler.errors import MeasureError
from profiler.messages import Loaded, LoadRequest, ReadBackRequest
from profiler.supervisor import Supervisor


class Process(Supervisor):
    """Answers loads as the measuring process does: it makes room first, and a model named `broken` does not load."""

    def __init__(self):
        super().__init__(None, None, 60.0)
        self.held, self.asked = [], []

    def _start(self):
        pass

    def _ask(self, request, read, extra_s=0.0, alive=None):
        if isinstance(request, ReadBackRequest):
            self.held = [request.model]
            raise MeasureError("run", "the disk is full")
        assert isinstance(request, LoadRequest)
        self.asked.append(request.model)
        if request.model in self.held:
            return Loaded([])
        evicted, self.held = self.held, []
        if request.model == "broken":
            raise MeasureError("load", "cannot parse the model")
        self.held = [request.model]
        return Loaded(evicted)


def test_an_engine_that_made_room_for_a_model_that_does_not_load_is_loaded_again():
    process = Process()
    process.load("good", "good.onnx")
    with pytest.raises(MeasureError):
        process.load("broken", "broken.onnx")

    process.load("good", "good.onnx")

    assert process.asked == ["good", "broken", "good"]
    assert process.held == ["good"]


def test_a_loaded_engine_is_not_asked_for_again():
    process = Process()
    process.load("good", "good.onnx")
    process.load("good", "good.onnx")

    assert process.asked == ["good"]


def test_an_engine_that_made_room_for_a_read_back_that_failed_is_loaded_again():
    process = Process()
    process.load("other", "other.onnx")
    with pytest.raises(MeasureError):
        process.read_back("good", "good.onnx")

    process.load("other", "other.onnx")

    assert process.held == ["other"]
