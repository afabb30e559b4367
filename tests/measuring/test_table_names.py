"""Where a table goes unless the user names a file."""

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
