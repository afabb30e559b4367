"""What NVIDIA's own bindings say of the calls that queue inferences. Without a GPU no engine runs, so no call is made."""

import inspect
import re

import tensorrt_rtx_bindings as trt

from tests.profiler.tensorrt import standin


def documented(member):
    return inspect.getdoc(getattr(trt.IExecutionContext, member))


def test_an_inference_is_enqueued_by_its_stream_alone_and_says_whether_it_was_taken():
    first = documented("execute_async_v3").splitlines()[0]

    assert re.search(r"\(self: .*, stream_handle: .*\) -> bool", first), first
    assert standin.load_api("11.4.0.106")["classes"]["IExecutionContext"]["methods"]["execute_async_v3"] == [
        ["stream_handle"]
    ]


def test_buffers_may_be_used_by_several_queued_inferences_until_the_stream_is_synchronised():
    """The one condition is on modifying or releasing memory. That queued inferences do neither is tested with the stand-in."""
    text = " ".join(documented("execute_async_v3").split())

    assert "Asynchronously execute inference" in text
    assert "Modifying or releasing memory" in text and "before stream synchronization" in text


def test_a_stream_of_its_own_is_what_the_documentation_asks_for():
    assert "Please use non-default stream" in " ".join(documented("execute_async_v3").split())
