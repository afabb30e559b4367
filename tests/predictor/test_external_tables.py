"""Tables of other projects: small ones by hand, and the recorded ones where they are."""

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.predictor.features import GAUSSIAN, fit_features

BLOCK = "MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0"


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
    assert table.features.work[0, :2].tolist() == [pointwise, 49 * 144 * 56**2]
    assert table.values["TX2", "latency_ms"].tolist() == [5.1]
    assert np.isnan(table.values["AGX Xavier", "energy_mj"][0])
    assert table.known(("AGX Xavier", "latency_ms"), ("TX2", "latency_ms")).tolist() == [0]
    assert table.known(("AGX Xavier", "energy_mj")).tolist() == []


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
def test_edges_that_never_reach_the_output_are_no_work(tmp_path, cell, counted):
    table = read_external_table(written(tmp_path, f"arch_str,latency_ms_cifar10\n{cell},3.2\n"))

    assert table.form == "HW-NAS-Bench"
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
    ("text", "said"),
    [
        ("a,b\n1,2\n", "in no form known here: its columns are a, b"),
        ("", "its columns are none"),
        (f"key,latency_ms\n{BLOCK},-1\n", ":2: latency_ms is '-1'"),
        ("key,latency_ms\nfoo,1\n", "'foo' does not name a block"),
        ("arch_str,latency_ms\n|conv~0|,1\n", "is no cell of NAS-Bench-201"),
        ("arch_str,cost\nx,1\n", "no column names a latency or an energy"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, text, said):
    with pytest.raises(PredictorError) as caught:
        read_external_table(written(tmp_path, text))

    assert said in str(caught.value)


def test_a_missing_table_is_said(tmp_path):
    with pytest.raises(PredictorError, match="cannot read the table"):
        read_external_table(tmp_path / "none.csv")


def test_recorded_blocks_are_predicted(shared_data):
    table = read_external_table(shared_data / "ofa_block_lut" / "lut.csv")
    for metric in ("latency_ms", "energy_mj"):
        rows = table.known(("TX2", metric))
        assert len(rows) > 60
        assert fit_features(table.features.take(rows), table.values["TX2", metric][rows]).errors[GAUSSIAN] < 0.15


def test_recorded_cells_are_predicted(shared_data):
    table = read_external_table(shared_data / "nb201_tx2" / "measurements.csv")
    value = np.median(np.stack(list(table.values.values())), axis=0)

    predictor = fit_features(table.features, value, relative=False)

    assert 1 - (predictor.errors[predictor.method] / value.std()) ** 2 > 0.97
