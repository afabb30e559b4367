"""Options that say which images the ranges of int8 activations are read from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightnas_edge.cli._console import UsageError
from lightnas_edge.records.quantisation import CalibrationMethod

if TYPE_CHECKING:
    from lightnas_edge.quantise.calibration import CalibrationImages


def add_calibration(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--calibrate", metavar="DIR|N",
        help="int8: read ranges from the images below a folder, or from N training images (default: 512 of them)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-method", choices=get_args(CalibrationMethod), metavar="METHOD",
        help=f"int8: {', '.join(get_args(CalibrationMethod))} (default: percentile)",
    )  # fmt: skip


def calibration_options(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """`calibration` and `method` of `build_export`, those that were given.

    Raises:
        CalibrationError, DataError: a folder without usable images.
    """
    from lightnas_edge.quantise.calibration import DEFAULT_IMAGES

    found: dict[str, Any] = {}
    if arguments.calibrate is not None:
        found["calibration"] = calibration_images(arguments.calibrate, size)
    if arguments.calibration_method is not None:
        found["method"] = arguments.calibration_method
        found.setdefault("calibration", DEFAULT_IMAGES)  # calibrated, also where the run has fine-tuned weights
    return found


def calibration_images(text: str, size: int) -> CalibrationImages | int:
    """A number of training images, or the images below a folder. A folder with digits alone as its name is `./512`."""
    from lightnas_edge.quantise.calibration import CalibrationImages

    if text.isdecimal():
        if int(text) < 1:
            raise UsageError("--calibrate 0 leaves no images to calibrate on", hint="at least 100 are needed")
        return int(text)
    return CalibrationImages.from_folder(Path(text), size)
