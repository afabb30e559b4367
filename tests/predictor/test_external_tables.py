"""Tables of other projects: small ones by hand, and the recorded ones where they exist."""

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.predictor.features import AVERAGE, fit_features

BLOCK = "MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0"
CELL = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def written(folder, text):
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_a_block_is_read_from_its_key(tmp_path):
    table = read_external_table(
        written(tmp_path, f"board,key,latency_ms,energy_mj\nTX2,{BLOCK},5.1,30.3\nAGX Xavier,{BLOCK},0.99,\n")
    )

    pointwise = 24 * 144 * 112**2 + 144 * 32 * 56**2
    assert table.form == "once-for-all"
    weights = 144 * (24 + 32 + 49)
    moved = 24 * 112**2 + 144 * (112**2 + 3 * 56**2) + 32 * 56**2
    assert table.features.work[0].tolist() == [pointwise, 49 * 144 * 56**2, moved, weights, 3, 0]
    assert table.features.joined is not None
    assert table.features.joined[0].tolist() == [pointwise, 49 * 144 * 56**2, moved + weights, 3, 0]
    assert table.values["TX2", "latency_ms"].tolist() == [5.1]
    assert np.isnan(table.values["AGX Xavier", "energy_mj"][0])
    assert table.known(("AGX Xavier", "latency_ms"), ("TX2", "latency_ms")).tolist() == [0]
    assert table.known(("AGX Xavier", "energy_mj")).tolist() == []


def test_images_need_not_be_square_and_linear_layers_have_one_pixel(tmp_path):
    keys = [BLOCK.replace("112_112", "112_57"), "LinearLayer-input:1536-in_ch:1536-out_ch:23"]

    table = read_external_table(written(tmp_path, "key,latency_ms\n" + "".join(f"{key},1\n" for key in keys)))

    assert table.features.work[:, 0].tolist() == [24 * 144 * 112 * 57 + 144 * 32 * 56 * 29, 1536 * 23]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("input:1_24_112_112", "input:8_24_112_112", "has the input '8_24_112_112', expected 1_24_ROWS_COLUMNS"),
        ("input:1_24_112_112", "input:1_99_112_112", "has the input '1_99_112_112'"),
        ("input:1_24_112_112", "input:112_112", "has the input '112_112'"),
        ("use_se:0", "use_se:True", "holds 'True', expected a whole number"),
        ("kernel:7", "kernel:7x7", "holds '7x7', expected a whole number"),
        ("in_ch:24", "in_ch:24.7", "holds '24.7', expected a whole number"),
        (
            "MBConvLayer",
            "MBInvertedConvLayer",
            "is of the unknown kind 'MBInvertedConvLayer', expected one of MBConvLayer",
        ),
    ],
)
def test_a_key_that_is_not_understood_is_refused(tmp_path, old, new, message):
    with pytest.raises(PredictorError) as caught:
        read_external_table(written(tmp_path, f"key,latency_ms\n{BLOCK.replace(old, new)},1\n"))

    assert message in str(caught.value)


def test_a_cell_with_its_edges_in_another_order_is_refused(tmp_path):
    cell = CELL.replace("|none~0|+", "|none~2|+", 1)

    with pytest.raises(PredictorError, match="is no cell of NAS-Bench-201"):
        read_external_table(written(tmp_path, f"arch_str,latency_ms\n{cell},1\n"))


@pytest.mark.parametrize(
    ("cell", "counted"),
    [
        # Everything reaches the output.
        ("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|", [1, 1, 1, 0, 3]),
        # Node 2 goes nowhere: what leads to it costs nothing.
        ("|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|skip_connect~1|none~2|", [1, 0, 1, 0, 2]),
        # Nothing leads from input to output: nothing is left to run.
        ("|none~0|+|none~0|avg_pool_3x3~1|+|none~0|avg_pool_3x3~1|skip_connect~2|", [0, 0, 0, 0, 0]),
    ],
)
def test_edges_that_never_reach_the_output_cost_nothing(tmp_path, cell, counted):
    table = read_external_table(written(tmp_path, f"arch_str,latency_ms_cifar10\n{cell},3.2\n"))

    assert table.form == "HW-NAS-Bench"
    assert table.features.joined is None
    assert table.features.traits[0, :5].tolist() == counted  # skip, 1x1, 3x3, pool, none
    assert table.features.work[0, -1] == (sum(counted) == 0)
    assert table.values["cifar10", "latency_ms"].tolist() == [3.2]


def test_the_column_names_of_hw_nas_bench_itself_are_understood(tmp_path):
    table = read_external_table(
        written(
            tmp_path, "arch_str,edgegpu_latency,edgegpu_energy\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,1,2\n"
        )
    )

    assert set(table.values) == {("edgegpu", "latency_ms"), ("edgegpu", "energy_mj")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "is in no known form: its columns are a, b"),
        ("", "its columns are none"),
        (f"key,latency_ms\n{BLOCK},-1\n", "line 2: latency_ms is '-1', expected a number above 0"),
        ("key,latency_ms\nfoo,1\n", "'foo' does not name a block"),
        ("arch_str,latency_ms\n|conv~0|,1\n", "is no cell of NAS-Bench-201"),
        (
            "arch_str,cost\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,1\n",
            "no column names a latency or an energy",
        ),
    ],
)
def test_a_fault_is_named(tmp_path, text, message):
    with pytest.raises(PredictorError) as caught:
        read_external_table(written(tmp_path, text))

    assert message in str(caught.value)


def test_every_fault_is_named_with_its_line(tmp_path):
    text = f"board,key,latency_ms\nTX2,{BLOCK},inf\nTX2,foo,1\nTX2\nTX2,{BLOCK.replace('in_ch:24', 'in_ch:0')},1\n"

    with pytest.raises(PredictorError) as caught:
        read_external_table(written(tmp_path, text))

    message = str(caught.value)
    assert "holds 4 errors" in message
    for fault in (
        "line 2: latency_ms is 'inf'",
        "line 3: 'foo'",
        "line 4: 1 fields, expected 3",
        "line 5: 'MBConvLayer",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("column", "text", "board"),
    [
        ("latency_us", "5100", "board"),
        ("latency_s_gpu", "0.0051", "gpu"),
        ("tx2_latency_us", "5100", "tx2"),
        ("Latency [µs]", "5100", "board"),
        ("latency (\u03bcs)", "5100", "board"),
        ("LATENCY-NS", "5.1e6", "board"),
        ("latency_cifar10_usec", "5100", "cifar10"),
        ("mean_latency_ms", "5.1", "board"),
        ("TX2 latency (seconds)", ".0051", "tx2"),
    ],
)
def test_other_units_of_time_are_converted_to_milliseconds(tmp_path, column, text, board):
    table = read_external_table(written(tmp_path, f"arch_str,{column}\n{CELL},{text}\n"))

    assert table.values[board, "latency_ms"].tolist() == pytest.approx([5.1])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("latency", "column 'latency' names no unit; rename it, for example to 'latency_ms'"),
        ("latency_cifar10", "column 'latency_cifar10' names no unit; rename it, for example to 'latency_ms_cifar10'"),
        ("latency_mj", "column 'latency_mj' has the unknown unit 'mj', expected one of ns, us, ms, s"),
        ("Latency [h]", "column 'Latency [h]' has the unknown unit 'h'"),
        ("latency_fps", "column 'latency_fps' has the unknown unit 'fps'"),
        ("energy_ms", "column 'energy_ms' has the unknown unit 'ms', expected one of nj, uj, mj, j, wh"),
        ("tx2_latency", "column 'tx2_latency' names no unit; rename it, for example to 'latency_ms_tx2'"),
        ("latency_ms_std,accuracy", "no column names a latency or an energy: arch_str, latency_ms_std, accuracy"),
        ("latency_ms,latency_us", "columns 'latency_ms' and 'latency_us' hold the same metric"),
    ],
)
def test_a_column_without_a_unit_of_its_own_is_refused(tmp_path, column, message):
    with pytest.raises(PredictorError) as caught:
        read_external_table(written(tmp_path, f"arch_str,{column}\n{CELL}{',1' * len(column.split(','))}\n"))

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("column", "text"), [("energy_uj", "30300"), ("Energy [J]", "0.0303"), ("energy_mwh", "8.41667e-3")]
)
def test_other_units_of_energy_are_converted_to_millijoules(tmp_path, column, text):
    table = read_external_table(written(tmp_path, f"key,{column}\n{BLOCK},{text}\n"))

    assert table.values["board", "energy_mj"].tolist() == pytest.approx([30.3], rel=1e-4)


@pytest.mark.parametrize(("form", "name"), [("key", BLOCK), ("arch_str", CELL)])
def test_rows_that_disagree_are_refused_and_equal_ones_are_read_once(tmp_path, form, name):
    header = f"{form},latency_ms,board\n"
    row, other = (f"{name},{ms},AGX Xavier\n" for ms in (0.43, 1.29))

    assert len(read_external_table(written(tmp_path, header + row + row)).keys) == 1
    with pytest.raises(
        PredictorError, match=rf"line 3: latency_ms is 1.29 .* line 2 for the same {form} on AGX Xavier"
    ):
        read_external_table(written(tmp_path, header + row + other))


def test_rows_of_several_boards_complete_each_other(tmp_path):
    text = f"arch_str,board,latency_ms_cifar10\n{CELL},TX2,3.2\n{CELL},Nano,\n{CELL},Nano,9.5\n"

    table = read_external_table(written(tmp_path, text))

    assert {name: values.tolist() for (name, _), values in table.values.items()} == {
        "TX2 cifar10": [3.2], "Nano cifar10": [9.5],
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_line_ends_and_separators_change_nothing(tmp_path, encoding, end, separator):
    rows = [["Board ", "key", "Latency_ms"], ["TX2", BLOCK, " 5.1"], [], ["Nano", f'"{BLOCK}"', "12"]]
    (tmp_path / "t.csv").write_bytes(end.join(separator.join(row) for row in rows).encode(encoding))

    table = read_external_table(tmp_path / "t.csv")

    assert table.keys == (BLOCK,)
    assert (table.values["TX2", "latency_ms"], table.values["Nano", "latency_ms"]) == ([5.1], [12.0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"key;latency_ms\n{BLOCK};5,125\n", 5.125),
        (f"key\tlatency_ms\n{BLOCK}\t1,5e1\n", 15.0),
        (f'key,latency_ms\n{BLOCK},"0,125"\n', 0.125),
        (f"sep=;\r\nkey;latency_ms\r\n{BLOCK};5,1\r\n", 5.1),
    ],
)
def test_decimal_commas_are_read(tmp_path, text, value):
    assert read_external_table(written(tmp_path, text)).values["board", "latency_ms"].tolist() == [value]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'key,latency_ms\n{BLOCK},"1,234"\n', "'1,234' may be a decimal or thousands"),
        (f"key\tlatency_us\n{BLOCK}\t1,234\n", "'1,234' may be a decimal or thousands"),
        (
            f"board;key;latency_ms\na;{BLOCK};1,2\nb;{BLOCK};1.2\n",
            "numbers with commas ('1,2') and with points ('1.2')",
        ),
        (f"key;latency_ms\n{BLOCK};1.234,5\n", "line 2: latency_ms is '1.234,5'"),
        (f"key,latency_ms\n{BLOCK},1_000\n", "line 2: latency_ms is '1_000'"),
        (f"key,latency_ms\n{BLOCK},5.1 ms\n", "line 2: latency_ms is '5.1 ms'"),
        (f"sep=;\nkey;latency_ms\n{BLOCK};x\n", "line 3: latency_ms is 'x'"),
    ],
)
def test_numbers_that_may_mean_two_things_are_refused(tmp_path, text, message):
    with pytest.raises(PredictorError) as caught:
        read_external_table(written(tmp_path, text))

    assert message in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(PredictorError, match=r"none\.csv does not exist"):
        read_external_table(tmp_path / "none.csv")


def test_recorded_blocks_are_predicted(shared_data):
    table = read_external_table(shared_data / "ofa_block_lut" / "lut.csv")
    for metric in ("latency_ms", "energy_mj"):
        rows = table.known(("TX2", metric))
        assert len(rows) > 60
        assert fit_features(table.features.take(rows), table.values["TX2", metric][rows]).errors[AVERAGE] < 0.12


def test_recorded_cells_are_predicted(shared_data):
    table = read_external_table(shared_data / "nb201_tx2" / "measurements.csv")
    value = np.median(np.stack(list(table.values.values())), axis=0)

    predictor = fit_features(table.features, value, relative=False)

    assert 1 - (predictor.errors[predictor.method] / value.std()) ** 2 > 0.98
