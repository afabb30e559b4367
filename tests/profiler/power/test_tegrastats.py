"""The parser of tegrastats: one line per trap, and every line of the recorded logs."""

import pytest

from profiler.power.tegrastats import Core, Engine, Rail, TegrastatsError, parse, parse_log

HEAD = "RAM 613/3964MB (lfb 634x4MB) "


def test_jetpack_4_has_milliwatts_without_a_unit_and_no_date():
    record = parse(HEAD + "SWAP 5/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [2%@102,0%@204] POM_5V_IN 943/950")

    assert record.date is None and record.time_s is None
    assert (record.ram_used_mb, record.ram_total_mb, record.swap_used_mb) == (613, 3964, 5)
    assert record.cores == (Core(2, 102), Core(0, 204))
    assert record.rails == {"POM_5V_IN": Rail(943, 950, None)}
    assert record.rails_mw == {"POM_5V_IN": 943}


def test_jetpack_7_has_three_powers_and_two_temperatures():
    record = parse("07-17-2026 15:15:27 " + HEAD + "soc0@49.406C/49.5C VDD_GPU_SOC 4385mW/3787mW/4385mW")

    assert record.date == "07-17-2026 15:15:27"
    assert record.temperatures_c == {"soc0": 49.406}
    assert record.rails == {"VDD_GPU_SOC": Rail(4385, 3787, 4385)}
    assert record.swap_used_mb is None  # JetPack 7 leaves it out


@pytest.mark.parametrize(
    "text, engine",
    [
        ("GR3D_FREQ 62%@306", Engine(True, 62, (306,))),
        ("GR3D_FREQ 99%", Engine(True, 99, ())),
        ("GR3D_FREQ 0%@[114]", Engine(True, 0, (114,))),
        ("GR3D_FREQ 12%@[1300,1298]", Engine(True, 12, (1300, 1298))),
        ("GR3D_FREQ @[314,314,314]", Engine(True, None, (314, 314, 314))),
    ],
)
def test_the_gpu_is_read_in_every_form(text, engine):
    assert parse(HEAD + text).gr3d == engine


def test_other_engines_are_read():
    record = parse(HEAD + "EMC_FREQ 7%@408 VIC_FREQ 729 NVDEC 40%@115 VIC off OFA_FREQ @315 PVA0_FREQ off APE 150")

    assert record.engines["EMC"] == Engine(True, 7, (408,))
    assert record.engines["NVDEC"] == Engine(True, 40, (115,))
    assert record.engines["OFA"] == Engine(True, None, (315,))
    assert record.engines["PVA0"] == Engine(False, None, ())
    assert record.engines["APE"].clocks_mhz == (150,)


def test_cores_that_are_off_keep_their_place():
    assert parse(HEAD + "CPU [1%@345,off,3%]").cores == (Core(1, 345), None, Core(3, None))


def test_rails_and_temperatures_of_the_same_name_on_agx_xavier_are_separate():
    record = parse(
        HEAD + "CPU [0%@2265] MTS fg 0% bg 3% GPU@31C CPU@32C GPU 463/540 CPU 1236/1236 SOC 2318/2318 CV 0/0"
    )

    assert record.temperatures_c == {"GPU": 31.0, "CPU": 32.0}
    assert record.rails_mw == {"GPU": 463, "CPU": 1236, "SOC": 2318, "CV": 0}


def test_sensors_that_are_off_pmic_and_unconnected_channels_are_not_numbers():
    record = parse(HEAD + "CV0@-256C PMIC@100C tj@52.6C NC 0mW/0mW VDD_IN 5mW/5mW NC 0mW/0mW")

    assert record.temperatures_c == {"CV0": None, "tj": 52.6}
    assert record.rails_mw == {"VDD_IN": 5}


def test_small_free_blocks_and_the_prefix_of_another_logging_program_are_read():
    record = parse("1750866197.24::06-25-2025 09:43:17 RAM 6589/30587MB (lfb 1x512kB) GR3D_FREQ 0%@1300 ")

    assert record.time_s == 1750866197.24


def test_jetson_tx1_of_jetpack_2_has_one_clock_for_all_cores():
    record = parse(
        "RAM 1035/3995MB (lfb 501x4MB) SWAP 0/0MB (cached 0MB) cpu [1%,off,0%,3%]@518 EMC 7%@408 AVP 7%@80 VDE 0 "
        "GR3D 12%@76 EDP limit 1734"
    )

    assert record.cores == (Core(1, 518), None, Core(0, 518), Core(3, 518))
    assert record.gr3d == Engine(True, 12, (76,))
    assert record.engines["VDE"] == Engine(True, None, (0,))


@pytest.mark.parametrize(
    "stamp, date",
    [
        ("2026-05-13T12:53:24.123456+02:00 ", "2026-05-13T12:53:24.123456+02:00"),
        ("[2026-05-13 12:53:24] ", "2026-05-13 12:53:24"),
        ("2026-05-13 12:53:24,120: ", "2026-05-13 12:53:24,120"),
        ("[2026-05-13 12:53:24] : ", "2026-05-13 12:53:24"),
        ("2026-05-13 12:53:24 - ", "2026-05-13 12:53:24"),
        ("2026-05-13T12:53:24Z,\t", "2026-05-13T12:53:24Z"),
    ],
)
def test_time_stamps_of_other_logging_programs_are_read(stamp, date):
    assert parse(stamp + HEAD + "VDD_IN 5mW/5mW").date == date
    assert parse(stamp + "05-13-2026 12:53:24 " + HEAD + "VDD_IN 5mW/5mW").date == "05-13-2026 12:53:24"


def test_memory_without_its_largest_free_block_is_read():
    record = parse("RAM 613/3964MB SWAP 1/2MB CPU [2%@102] VDD_IN 5mW/5mW")

    assert (record.ram_used_mb, record.swap_total_mb) == (613, 2)
    assert parse("RAM 613/3964MB (lfb N/A) VDD_IN 5mW/5mW").ram_total_mb == 3964


def test_dates_and_remarks_on_lines_of_their_own_are_skipped():
    lines = [
        "Tue Jan 26 18:22:31 UTC 2021",
        "Tue 26 Jan 2021 06:22:31 PM UTC",
        "# idle",
        "",
        HEAD + "VDD_IN 5mW/5mW\r\n",
    ]

    records, faults = parse_log(lines)

    assert (len(records), faults) == (1, [])


@pytest.mark.parametrize(
    "line", ["", "   ", "hello", HEAD + "GR3D_FREQ 0% and more", HEAD + "VDD_IN 5W/5W", HEAD + "FOO  "]
)
def test_an_unknown_piece_is_an_error_with_its_text(line):
    with pytest.raises(TegrastatsError, match=r"empty line|no RAM field|not understood: '.+'"):
        parse(line)


# ------------------------------------------------------------------ every recorded line

RAILS = {
    "tx2": {"VDD_IN", "VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_SYS_CPU", "VDD_SYS_DDR"},
    "orin_nano": {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"},
    "orinnx_16gb": {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"},
    "xaviernx_8gb": {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"},
    "xavieragx_16gb": {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"},
    "orinagx_32gb": {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"},
    "orinagx_64gb": {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"},
    "nano": {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"},
}
LINES = {
    "tx2": 432,
    "orin_nano": 2928,
    "orinnx_16gb": 55,
    "xaviernx_8gb": 159,
    "xavieragx_16gb": 42,
    "orinagx_32gb": 37,
    "orinagx_64gb": 1556,
    "nano": 3516,
}
CORES = {"tx2": 6, "orin_nano": 6, "orinnx_16gb": 8, "xaviernx_8gb": 6, "xavieragx_16gb": 8, "nano": 4}
CORES.update(orinagx_32gb=12, orinagx_64gb=12)


@pytest.mark.parametrize("board", LINES)
def test_every_line_of_the_recorded_logs_is_read(shared_data, board):
    folder = shared_data / ("nano_convnets/tegrastats" if board == "nano" else f"tegrastats/{board}")
    total = 0
    for path in sorted(folder.iterdir()):
        records, faults = parse_log(path.read_text(encoding="utf-8").splitlines())
        # One log ends with a line of the program that made the load.
        assert [line.split()[0] for _, line, _ in faults] in ([], ["LOAD_SMOKE_SUMMARY"]), faults
        total += len(records)
        for record in records:
            assert set(record.rails) == RAILS[board]
            assert len(record.cores) == CORES[board]
            assert record.gr3d.load_percent is not None and record.temperatures_c
            assert 0 < record.ram_used_mb <= record.ram_total_mb
            assert all(0 <= rail.now_mw < 70_000 for rail in record.rails.values())
            assert all(value is None or 0 < value < 110 for value in record.temperatures_c.values())

    assert total == LINES[board]


def test_every_sample_line_of_every_generation_is_read(shared_data):
    lines = [
        line for line in (shared_data / "tegrastats/samples.txt").read_text().splitlines() if not line.startswith("#")
    ]
    records, faults = parse_log(lines)

    assert (len(records), faults) == (52, [])
    without_rails = [record for record in records if not record.rails]
    assert len(without_rails) == 3  # tegrastats without root on AGX Xavier, Xavier NX and AGX Orin 32GB
    assert sum(any(rail.max_mw is not None for rail in record.rails.values()) for record in records) == 2
    assert sum(core is None for record in records for core in record.cores) == 15
