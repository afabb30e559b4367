"""What TensorRT refuses, by facts that do not need it: a virtual board refuses the same, in the same words."""

from typing import Collection, Optional, Set

from profiler.errors import BackendError, MeasureError

FAST = ("fp16", "int8")  # precisions that not every GPU has


def refuse_unfit(slow: Collection[str], precision: str, device: str) -> None:
    """Refuse a board that would compute in another precision than requested, before hours are spent.

    Args:
        slow: precisions that the device has no fast arithmetic for.
    """
    if precision in FAST and precision in slow:
        raise BackendError(
            "{} has no fast {}".format(device, precision),
            "use --precision fp16" if precision == "int8" and "fp16" not in slow else "use --precision fp32",
        )


def refuse_other_precision(
    is_quantised: bool, computes_in: Set[str], precision: str, version: str, by_flag: bool
) -> None:
    """Refuse a graph in another precision than requested.

    Args:
        is_quantised: the graph has QuantizeLinear or DequantizeLinear.
        computes_in: fp16, fp32 or both: its convolutions and matrix products, or all of its nodes where it has neither.
        by_flag: a builder flag permits a precision, which makes fp16 of fp32; else the graph alone decides.

    Raises:
        MeasureError: code `load`; the remedy names the precision that fits.
    """
    if precision == "int8" and not is_quantised:
        raise MeasureError(
            "load",
            "the model has no QuantizeLinear or DequantizeLinear: INT8 needs its scales in the graph",
            "quantise it at export (Q/DQ), or use --precision fp16",
        )
    if precision != "int8" and is_quantised:
        raise MeasureError(
            "load",
            "the model is quantised (QuantizeLinear or DequantizeLinear): it would not compute in " + precision,
            "export it in {}, or use --precision int8".format(precision),
        )
    if precision == "int8" or not computes_in - {precision} - ({"fp32"} if by_flag else set()):
        return
    text = "this model computes in {}, not in {}".format(" and ".join(sorted(computes_in)), precision)
    if not by_flag:
        text = "TensorRT {} takes the precision from the model, and {}".format(version, text)
    other = (computes_in - {precision}).pop()
    remedy = "export it in {}".format(precision)
    if computes_in == {other}:
        remedy += ", or use --precision " + other
    raise MeasureError("load", text, remedy)


def refuse_other_opset(version: str, reads: Optional[int], opset: int) -> None:
    """Refuse a model of a newer opset than this version reads; None: not known."""
    if reads is not None and opset > reads:
        raise MeasureError(
            "load",
            "TensorRT {} reads opset {} at most; the model has opset {}".format(version, reads, opset),
            "export it again with opset {} or lower".format(reads),
        )
