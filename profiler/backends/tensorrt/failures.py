"""From what TensorRT says about a failure to the error of a measurement: its code, its remedy, and whether CUDA is lost."""

from typing import List

from profiler import cuda
from profiler.errors import MeasureError

FREE_MEMORY = "free memory on the board (close the desktop, add swap), or use a smaller batch"
OTHER_GPU = "this TensorRT is not made for this GPU: install one that supports its compute capability"
RESTART = "CUDA is lost for this process, which is replaced; if it fails again, report this operator; see agent.log"


def failure(version: str, what: str, messages: List[str], remedy: str = "", code: str = "load") -> MeasureError:
    """An error about TensorRT. A CUDA error that stays with the process makes it fatal."""
    text = "; ".join(messages)
    sticky = cuda.is_sticky(text)
    if sticky:
        remedy = RESTART
    elif cuda.is_out_of_memory(text):
        code, remedy = "memory", FREE_MEMORY
    elif "not support this compute capability" in text:
        remedy = OTHER_GPU
    err = MeasureError(
        code,
        "TensorRT {} {}: {}".format(version, what, text or "it gave no reason"),
        remedy or "see agent.log",
    )
    err.fatal = sticky
    return err
