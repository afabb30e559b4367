"""Do two programs compute the same? The outputs of a reference and those of an engine, on the same inputs."""

from __future__ import annotations

import numpy as np

from lightnas_edge.records.deployment import Agreement


def compare_outputs(reference: np.ndarray, outputs: np.ndarray) -> Agreement:
    """Compare logits, or other outputs, row by row; rows of one value, which have no direction, as one row.

    Args:
        reference: (N, classes). Where it is not finite, the engine must be the same.
        outputs: (N, classes) of the engine. Another number that is not finite makes the agreement as bad as it can be.
    """
    if reference.shape != outputs.shape or not len(reference):
        raise ValueError(
            f"outputs of the reference {reference.shape} and of the engine {outputs.shape} cannot be compared"
        )
    known = np.isfinite(reference)
    alike = np.isfinite(outputs) & known | ~known & ((reference == outputs) | np.isnan(reference) & np.isnan(outputs))
    finite = alike.all(axis=1)  # rows that can be compared
    ours = np.where(known, reference, 0.0).astype(np.float64)
    theirs = np.where(known & finite[:, None], outputs, 0.0).astype(np.float64)
    difference = float(np.abs(ours - theirs).max()) if finite.all() else float(np.finfo(np.float32).max)
    top1_agreement = float(np.mean((ours.argmax(axis=1) == theirs.argmax(axis=1)) & finite))
    if ours.shape[1] == 1 and finite.all():
        ours, theirs, finite = ours.T, theirs.T, finite[:1]
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    cosines[~ours.any(axis=1) & ~theirs.any(axis=1) & finite] = 1.0  # both are zero: equal, without a direction
    return Agreement(
        images=len(reference),
        max_abs_difference=difference,
        relative_difference=difference / max(float(np.abs(ours).max()), float(np.finfo(np.float32).tiny)),
        cosine=float(min(1.0, cosines.min())),
        top1_agreement=top1_agreement,
    )
