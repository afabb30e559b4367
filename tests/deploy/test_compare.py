"""An engine that computes something else is found out."""

import numpy as np
import pytest

from lightnas_edge.deploy import compare_outputs

LOGITS = np.array([[2.0, 0.0], [0.0, 4.0]], np.float32)


def test_equal_outputs_agree_in_everything():
    agreement = compare_outputs(LOGITS, LOGITS)

    assert (agreement.images, agreement.max_abs_difference, agreement.cosine, agreement.top1_agreement) == (2, 0, 1, 1)


def test_the_difference_is_reported_against_the_largest_logit():
    agreement = compare_outputs(LOGITS, LOGITS + np.array([[0.4, 0.0], [0.0, 0.0]], np.float32))

    assert agreement.max_abs_difference == pytest.approx(0.4)
    assert agreement.relative_difference == pytest.approx(0.1)


def test_the_cosine_is_that_of_the_worst_image():
    agreement = compare_outputs(LOGITS, np.array([[2.0, 0.0], [4.0, 0.0]], np.float32))

    assert agreement.cosine == 0.0
    assert agreement.top1_agreement == 0.5


def test_a_number_that_is_not_finite_never_passes():
    agreement = compare_outputs(LOGITS, np.array([[np.nan, 0.0], [0.0, 4.0]], np.float32))

    assert agreement.cosine == 0.0
    assert agreement.relative_difference > 1e30
    assert agreement.top1_agreement == 0.5


def test_logits_of_different_shape_cannot_be_compared():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_outputs(LOGITS, LOGITS[:, :1])


def test_numbers_that_are_none_must_be_none_in_both():
    reference = np.array([[2.0, np.nan], [np.inf, 4.0]], np.float32)

    alike = compare_outputs(reference, reference.copy())
    other = compare_outputs(reference, np.array([[2.0, 1.0], [np.inf, 4.0]], np.float32))
    infinite = compare_outputs(reference, np.array([[2.0, np.nan], [-np.inf, 4.0]], np.float32))

    assert (alike.cosine, alike.max_abs_difference, alike.top1_agreement) == (1.0, 0.0, 1.0)
    assert other.cosine == 0.0 and infinite.cosine == 0.0
    assert np.isfinite(list(other.to_json().values())).all()


def test_outputs_of_one_value_are_compared_over_all_images():
    """One value has no direction: two of the same sign, however different, would be equal."""
    reference = np.array([[0.9], [0.1], [0.8], [0.2]], np.float32)

    assert compare_outputs(reference, reference).cosine == 1.0
    assert compare_outputs(reference, 1 - reference).cosine < 0.7
    assert compare_outputs(reference, np.array([[0.9], [np.nan], [0.8], [0.2]], np.float32)).cosine == 0.0
