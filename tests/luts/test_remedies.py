"""Every command that a message about a table names is one that the command line accepts."""

import re
import shlex

import pytest

import luts
from lightnas_edge.cli import all_commands
from tests.luts.journals import FINGERPRINT, header, visit, write


def commands_in(text):
    return re.findall(r"`((?:profile-device|lightnas-edge) [^`]*)`", text)


@pytest.fixture
def lut(tmp_path):
    network = {"kind": "architecture", "schema": 1, "space": "tiny", "operators": ["skip"]}
    fingerprint = FINGERPRINT | {"precision": "fp16", "batch": 8, "threads": 2}
    spread = [1.0, 1.3, 1.0, 1.3, 1.0, 1.3]
    records = [visit("stem@3x32-16s2", [1.0])]
    records += [visit("skip@40x4-80s2", [sample], round=round_) for round_, sample in enumerate(spread)]
    records += [visit("net-1", [sample], round=round_, architecture=network) for round_, sample in enumerate(spread)]
    return luts.read(write(tmp_path / "t", header(fingerprint=fingerprint), *records))


def test_the_remedies_of_a_table_parse(lut, tmp_path):
    texts = [warning for entry in (lut.entries | lut.networks).values() for warning in entry.warnings]
    for keys in (["a@1"], [f"k{number}@1" for number in range(9)]):
        with pytest.raises(luts.LutMissError) as caught:
            lut.latencies_ms(keys)
        texts.append(caught.value.hint)
    with pytest.raises(luts.LutMissError) as caught:
        luts.drift_ratio(lut, luts.read(write(tmp_path / "other", header(fingerprint=lut.fingerprint))))
    texts.append(caught.value.hint)
    for content in (b"", b"damaged\n"):
        (tmp_path / "damaged").write_bytes(content)
        with pytest.raises(luts.LutFormatError) as refused:
            luts.read(tmp_path / "damaged")
        texts.append(refused.value.hint)

    commands = [command for text in texts for command in commands_in(text)]

    of_networks = [text for text in texts if "the command that measured it, with `--rounds" in text]
    assert len(of_networks) == 1, "which networks they were, a table does not know"
    assert len(commands) >= len(texts) - len(of_networks)
    for command in commands:
        words = shlex.split(command.replace("NAME", "tiny"))
        all_commands().parse_args(words if words[0] == "profile-device" else words[1:])


def test_a_remedy_repeats_the_settings_of_the_table(lut):
    assert lut.command_options == "--host HOST --space tiny --classes 10 --precision fp16 --batch 8 --threads 2"


def test_a_remedy_repeats_the_state_of_the_board(tmp_path):
    setup = {"lock_clocks": True, "power_mode": "7W"}
    lut = luts.read(write(tmp_path / "t", header(board_setup=setup)))
    assert lut.command_options == "--host HOST --space tiny --classes 10 --power-mode 7W --lock-clocks"


def test_a_remedy_names_the_host_where_it_is_known(lut):
    known = luts.read(lut.path, host="orin bench")
    assert known.command_options.startswith("--host 'orin bench' --space tiny ")


def test_a_damaged_table_names_the_host_where_it_is_known(tmp_path):
    for content in (b"", b"damaged\n"):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(luts.LutFormatError) as refused:
            luts.read(tmp_path / "t", host="orin bench")
        assert "`profile-device --host 'orin bench' --space NAME" in refused.value.hint


def test_a_faulty_second_header_is_refused_with_the_space_of_the_first(tmp_path):
    with pytest.raises(luts.LutFormatError) as refused:
        luts.read(write(tmp_path / "t", header(), visit("a@1", [1.0]), header(units={"latency": "s", "energy": "mJ"})))
    assert "`profile-device --host HOST --space tiny --classes 10`" in refused.value.hint


def test_the_table_of_a_virtual_board_names_its_host(tmp_path):
    fingerprint = FINGERPRINT | {"board": "virtual:jetson-nano"}
    lut = luts.read(write(tmp_path / "t", header(fingerprint=fingerprint)))
    assert lut.command_options == "--host virtual:jetson-nano --space tiny --classes 10"
