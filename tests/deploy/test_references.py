"""What a model file is compared with."""

import numpy as np
import pytest

from lightnas_edge.deploy.references import from_npz
from lightnas_edge.errors import VerifyError
from lightnas_edge.models import read_model
from tests.devices.conftest import scale_model


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array(5.0), r"x is \[\], expected \[1, 8\]"),
        (np.zeros((0, 1, 8), np.float32), "x holds 0 runs"),
        (np.full((1, 8), "a"), "x holds 1 runs of <U1, expected numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_their_names(tmp_path, x, message):
    (tmp_path / "net.onnx").write_bytes(scale_model(2))
    np.savez(tmp_path / "r.npz", x=x, y=np.zeros((1, 8), np.float32))

    with pytest.raises(VerifyError, match=message):
        from_npz(read_model(tmp_path / "net.onnx"), tmp_path / "r.npz")
