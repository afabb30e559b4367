"""torchvision next to a build of PyTorch for which it has no compiled operators, such as the CPU build with the usual wheel.

The transforms need none of them, but `import torchvision` asks for two.
"""

import torch

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared = []  # a library ends with its object


def declare_missing():
    """Declare them, without an implementation."""
    if not _declared:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for signature in _SIGNATURES:
                library.define(signature)
            _declared.append(library)
