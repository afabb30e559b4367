"""The truth that the search benchmark is judged by: whole, and not known to any search."""

from __future__ import annotations

from benchmarks.truth_task import FOLDER, PARTS, load_task, read


def test_no_digit_of_the_truth_is_seen_by_a_search():
    task = load_task()
    seen = {digit_of(pixels) for images in (task.data.train, task.data.validation) for pixels in images.pixels}

    unseen = {digit_of(pixels) for pixels in task.test.pixels}

    assert not seen & unseen
    assert len(seen) + len(unseen) == sum(count for count, _ in PARTS.values())


def digit_of(pixels):
    """The digit cut out of its canvas, wherever it was put."""
    inked = pixels[..., 0]
    rows, columns = inked.any(axis=1).nonzero()[0], inked.any(axis=0).nonzero()[0]
    cut = inked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut.shape, cut.tobytes()


def test_every_network_of_the_space_is_known():
    space = load_task().space
    rows = read(FOLDER / "accuracy.csv")

    assert len({row["architecture"] for row in rows}) == space.size
    assert len({(row["architecture"], row["seed"]) for row in rows}) == len(rows)
    assert len(read(FOLDER / "latency.csv")) == space.size
