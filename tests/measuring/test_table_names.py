"""Where a table goes unless the user names a file."""

import pytest

from lightnas_edge.measuring import Settings
from lightnas_edge.measuring.tables import table_path


def test_the_table_of_many_boards_has_a_name_that_a_file_system_takes():
    boards = [f"virtual:jetson-orin-nano#{number}" for number in range(1, 13)]
    few, many, others = (
        str(table_path(",".join(some), "tiny", Settings())) for some in (boards[:3], boards, boards[:11])
    )

    assert few.startswith("virtual-jetson-orin-nano-1-virtual-jetson-orin-nano-2-virtual-jetson-orin-nano-3-tiny-")
    assert many.startswith("virtual-jetson-orin-nano-1-and-11-more-") and len(many) < 160
    assert len({few, many, others}) == 3


@pytest.mark.parametrize("suffix", ("", "-networks"))
@pytest.mark.parametrize("letter", ("n", "ü"))
def test_a_name_is_shortened_only_where_a_file_system_would_not_take_it(tmp_path, letter, suffix):
    """So a table that an earlier version began is continued."""
    content = f"tiny-fp32-b1-t1{suffix}.lut.jsonl"
    whole = []
    for count in range(60, 260):
        name = str(table_path(f"{letter * count},orin2", "tiny", Settings(), suffix))
        (tmp_path / f"{name}.part").touch()  # while it is written
        assert name.endswith(f"-{content}")
        if name == f"{letter * count}-orin2-{content}":
            whole.append(name)

    assert len(f"{letter}{whole[-1]}.part".encode()) > 255
