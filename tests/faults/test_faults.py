"""A few runs of `make faults`."""

import pytest

from tests.faults.kinds import KINDS
from tests.faults.run import carry_out


@pytest.mark.parametrize("name", ["host killed", "model: flip", "pid used again", "set-up: guard killed"])
def test_the_same_command_after_a_fault_completes_the_table(tmp_path, name):
    kind = next(kind for kind in KINDS if kind.name == name)

    outcome = carry_out(kind, seed=0, number=0, folder=tmp_path / "run")

    assert outcome.good, outcome
