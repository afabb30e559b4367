"""What a command says about the time of the boards before it measures."""

import pytest

from lightnas_edge.cli._console import output
from lightnas_edge.cli._measuring import announce_estimate, estimated_seconds, shared_seconds
from lightnas_edge.measuring import SENTINELS, Settings


def test_boards_that_share_the_work_need_that_much_less_except_for_the_engines_of_the_sentinels():
    onnxruntime, tensorrt = Settings(), Settings(backend="tensorrt")

    for settings, ratio in ((onnxruntime, 2.9), (tensorrt, 2.3)):
        alone_s = estimated_seconds(88, settings)
        assert ratio < alone_s / shared_seconds(alone_s, settings, 3) < 3
        assert shared_seconds(alone_s, settings, 1) == alone_s
    built_s = estimated_seconds(SENTINELS, tensorrt) - estimated_seconds(SENTINELS, onnxruntime)
    alone_s = estimated_seconds(88, tensorrt)
    assert shared_seconds(alone_s, tensorrt, 2) > alone_s / 2 + 0.4 * built_s


@pytest.mark.parametrize(("boards", "text"), [(1, "about 29 s unless"), (3, "about 11 s on 3 boards unless")])
def test_the_line_before_a_job_is_about_all_boards_together(capsys, boards, text):
    with output():
        announce_estimate(30, Settings(), boards=boards)

    assert text in capsys.readouterr().err
