"""The board's identity and its settings, read from files in the form of each generation."""

import pytest

from profiler import backends, board, clocks
from profiler.state import StateReader, warnings_about
from profiler.system import System

CATALOGUED = {"software": [{"l4t": "32.7.6", "jetpack": "4.6.6"}]}


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NV Power Mode: MAXN\n0\n", {"id": 0, "name": "MAXN"}),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_30W_ALL\n3\n", {"id": 3, "name": "MODE_30W_ALL"}),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W\n2\n", {"id": 2, "name": "MODE_15W"}),
        (
            "NV Power Mode: 5W\n1\nNVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\n"
            "NVPM ERROR: failed to read PARAM EMC: ARG FREQ_MAX: PATH /sys/kernel/nvpmodel_emc_cap/emc_iso_cap\n",
            {"id": 1, "name": "5W"},
        ),
        ("NVPM ERROR: Error opening something: 13\nNV Power Mode: MAXN_SUPER\n2\n", {"id": 2, "name": "MAXN_SUPER"}),
        ("NV Power Mode: 15W\nNVPM WARN: late\n0\n", {"id": 0, "name": "15W"}),
        ("NV Power Mode: MAXN\n", {"id": None, "name": "MAXN"}),
        ("Please run as root\n", None),
        ("", None),
    ],
)
def test_the_power_mode_is_found_between_warnings(text, expected):
    mode = board.parse_power_mode(text)

    assert (mode and mode.to_json()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("# R32 (release), REVISION: 7.6, GCID: 1, BOARD: t210ref, EABI: aarch64, DATE: Tue Nov  5", "32.7.6"),
        (
            "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, DATE: now\n# KERNEL",
            "36.4.7",
        ),
        ("something else", None),
    ],
)
def test_the_release_is_read_from_the_first_line(tmp_path, line, expected):
    write(tmp_path, {"etc/nv_tegra_release": line + "\n"})

    assert board.l4t_release(System(str(tmp_path))) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Package: bash\nVersion: 5.1-6\n\nPackage: nvidia-l4t-core\nVersion: 35.4.1-20230801124926\n", "35.4.1"),
        ("Package: nvidia-l4t-core-extra\nVersion: 35.4.1-2\n", None),
        ("Package: bash\nVersion: 35.4.1-6\n", None),
        (None, None),
    ],
)
def test_without_nvidias_release_file_the_packages_name_the_release(tmp_path, status, expected):
    if status is not None:
        write(tmp_path, {"var/lib/dpkg/status": status})

    assert board.l4t_release(System(str(tmp_path))) == expected


CATALOGUE = [
    {"name": "linux", "identity": {"device_tree_model": None, "compatible": []}},
    {"name": "nx", "identity": {"device_tree_model": "Orin NX", "compatible": ["p3767"]}},
    {"name": "nano", "identity": {"device_tree_model": "Orin Nano", "compatible": ["p3767-0005"]}},
]


@pytest.mark.parametrize(
    ("compatible", "model", "expected"),
    [
        ("nvidia,p3768-0000\0nvidia,p3767-0005\0nvidia,tegra234\0", "A carrier board of another maker\0", "nano"),
        ("nvidia,p3767-0000-super\0nvidia,tegra234\0", "NVIDIA Jetson Orin Nano by its model\0", "nx"),
        ("nvidia,tegra234\0", "NVIDIA Jetson Orin Nano Developer Kit\0", "nano"),
        ("raspberrypi,4-model-b\0brcm,bcm2711\0", "Raspberry Pi 4 Model B\0", "linux"),
    ],
)
def test_part_numbers_identify_the_board_before_the_model_does(tmp_path, compatible, model, expected):
    write(tmp_path, {"device-tree/compatible": compatible, "device-tree/model": model})

    assert board.identify(CATALOGUE, str(tmp_path))["name"] == expected
    assert board.identify(CATALOGUE, str(tmp_path / "nowhere"))["name"] == "linux"


def test_jetpack_is_a_label_of_the_release():
    assert board.jetpack_of(CATALOGUED, "32.7.6") == "4.6.6"
    assert board.jetpack_of(CATALOGUED, "99.1") is None
    assert board.jetpack_of({}, None) is None


@pytest.mark.parametrize(
    ("folder", "node"),
    [("57000000.gpu", "gpu"), ("17000000.gv11b", "gv11b"), ("17000000.ga10b", None), ("gpu-gpc-0", None)],
)
def test_the_gpu_is_known_by_its_device_tree_node_or_its_name(tmp_path, folder, node):
    write(
        tmp_path,
        {
            "class/devfreq/aconnect/cur_freq": "1\n",
            f"class/devfreq/{folder}/cur_freq": "614400000\n",
            f"class/devfreq/{folder}/min_freq": "76800000\n",
            f"class/devfreq/{folder}/max_freq": "921600000\n",
        },
    )
    if node is not None:
        write(tmp_path, {f"class/devfreq/{folder}/device/of_node/name": node + "\0"})

    state = clocks.gpu_state(str(tmp_path))

    assert (state["cur_mhz"], state["min_mhz"], state["max_mhz"]) == (614.4, 76.8, 921.6)
    assert clocks.clock_state(str(tmp_path)) == "floating"


@pytest.mark.parametrize("text", ["9" * 400, "\N{SUPERSCRIPT TWO}", "-1", "nan", ""])
def test_what_is_no_frequency_is_unknown(tmp_path, text):
    folder = "class/devfreq/57000000.gpu"
    names = ("cur_freq", "min_freq", "max_freq", "available_frequencies")
    write(tmp_path, {f"{folder}/{name}": f"{text}\n" for name in names} | {f"{folder}/device/of_node/name": "gpu\0"})

    state = clocks.gpu_state(str(tmp_path))

    assert (state["cur_mhz"], state["min_mhz"], state["max_mhz"], state["available_mhz"]) == (None,) * 4
    domain = clocks.engine_clock(str(tmp_path), True)
    assert domain is None or domain.most_mhz() is None


def test_a_machine_without_nvpmodel_has_no_power_mode(tmp_path):
    assert board.power_mode(System(str(tmp_path))) is None


STATE = {
    "sys/class/devfreq/57000000.gpu/cur_freq": "921600000\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "4\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "0\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "gpu-balanced\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/thermal/thermal_zone0/type": "CV0-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "-256000\n",
    "proc/meminfo": "MemAvailable: 1024 kB\nSwapTotal:  4096 kB\nSwapFree:  3072 kB\n",
}


def test_throttling_and_swap_are_part_of_the_state(tmp_path):
    write(tmp_path, STATE)

    state = StateReader([], (), str(tmp_path / "proc"), str(tmp_path / "sys")).before()

    assert state.gpu_mhz == 921.6
    assert state.over_current_events == 4
    assert state.throttled_by == []  # a fan cools without slowing anything
    assert state.temperature_c is None  # that zone is off
    assert state.swap_used_mb == 1.0


def test_a_warning_has_the_size_of_what_happened_within_a_visit_and_a_remedy(tmp_path):
    write(tmp_path, STATE)
    reader = StateReader([], (), str(tmp_path / "proc"), str(tmp_path / "sys"))
    before = reader.before()
    write(
        tmp_path,
        {
            "sys/class/devfreq/57000000.gpu/cur_freq": "614400000\n",
            "sys/class/hwmon/hwmon3/oc3_event_cnt": "2\n",
            "sys/class/thermal/cooling_device1/cur_state": "1\n",
            "proc/meminfo": "MemAvailable: 1024 kB\nSwapTotal:  4096 kB\nSwapFree:  1024 kB\n",
        },
    )

    assert warnings_about(reader.after(before, 0.0)) == [
        "GPU clock fell from 922 to 614 MHz; lock the clocks or cool the board",
        "the board throttled itself 2 times for over-current or low voltage; use a stronger supply or a "
        "lower power mode",
        "throttled for heat by gpu-balanced; cool the board",
        "swap grew by 2 MB during this visit; free memory on the board",
    ]


# Lines of /proc/cpuinfo as these machines have them.
SAPPHIRE_RAPIDS = (
    "flags\t\t: fpu vme de pse tsc msr pae cx8 apic sep pge mca cmov pat pse36 clflush dts mmx fxsr sse sse2 ss ht syscall nx "
    "pdpe1gb rdtscp lm avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx "
    "smap avx512ifma clflushopt clwb avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec xgetbv1 xsaves avx_vnni avx512_bf16 "
    "wbnoinvd arat avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg "
    "avx512_vpopcntdq la57 rdpid cldemote movdiri movdir64b fsrm serialize amx_bf16 avx512_fp16 amx_tile amx_int8 flush_l1d\n"
)
CORE_13900 = (
    "flags\t\t: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss ht fma cx16 "
    "avx f16c rdrand bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb intel_pt sha_ni xsaveopt xsavec xgetbv1 "
    "xsaves split_lock_detect user_shstk avx_vnni dtherm ida arat pln pts hwp hfi vnmi umip pku ospke waitpkg gfni vaes\n"
)
EPYC_7003 = (
    "flags\t\t: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ht syscall nx "
    "avx f16c rdrand hypervisor lahf_lm bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha_ni xsaveopt xsavec "
    "xgetbv1 xsaves clzero xsaveerptr wbnoinvd arat umip pku ospke vaes vpclmulqdq rdpid fsrm\n"
)
ORIN = (
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat "
    "ilrcpc flagm paca pacg\n"
)
CORTEX_X925 = (
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm sb paca pacg dcpodp sve2 svei8mm svebf16 i8mm bf16 dgh bti ecv\n"
)
NANO = "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\n"
ARM_WITH_SVE_ALONE = ORIN.replace("asimddp", "svei8mm")


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([SAPPHIRE_RAPIDS], "amx_int8, avx512_vnni, avx_vnni"),
        ([CORE_13900], "avx_vnni"),
        ([EPYC_7003], "none"),
        ([ORIN], "asimddp"),
        ([CORTEX_X925], "i8mm, asimddp"),
        ([NANO], "none"),
        ([ARM_WITH_SVE_ALONE], "none"),
        ([ORIN, CORTEX_X925], "asimddp"),  # cores of two kinds: what both have
        (["model name\t: something\n"], None),
    ],
)
def test_the_instructions_for_8_bits_are_read_from_the_processor_s_list(tmp_path, cores, expected):
    text = "".join(f"processor\t: {index}\n{core}\n" for index, core in enumerate(cores))
    write(tmp_path, {"cpuinfo": text})
    assert board.int8_instructions(str(tmp_path)) == expected


def test_the_instructions_for_8_bits_are_unknown_without_the_list(tmp_path):
    assert board.int8_instructions(str(tmp_path)) is None


@pytest.mark.parametrize(("precision", "expected"), [("int8", "avx_vnni"), ("fp32", "absent")])
def test_a_table_of_int8_on_a_cpu_depends_on_them(tmp_path, precision, expected):
    write(tmp_path, {"proc/cpuinfo": f"processor\t: 0\n{CORE_13900}"})
    backend = backends.open_backend("onnxruntime", precision, 1, 1, "/nowhere", System(str(tmp_path)))
    assert backend.fingerprint().get("int8_instructions", "absent") == expected


def cooling(root, *kinds):
    """Cooling devices, all of them at work."""
    for number, kind in enumerate(kinds):
        folder = f"class/thermal/cooling_device{number}"
        write(root, {f"{folder}/type": kind + "\n", f"{folder}/cur_state": "1\n"})


def throttled_by(sysfs):
    return StateReader([], proc=str(sysfs / "none"), sysfs=str(sysfs)).before().throttled_by


@pytest.mark.parametrize(
    "kind", ["pwm-fan", "Fan", "tegra_pwmfan", "hot-surface-alert", "LCD", "acpi_backlight", "TCC Offset"]
)
def test_what_cools_or_warns_without_slowing_anything_is_no_throttling(tmp_path, kind):
    cooling(tmp_path, kind, "cpu-throttle-alert")
    write(tmp_path, {"class/thermal/cooling_device1/cur_state": "0\n"})

    assert throttled_by(tmp_path) == []


@pytest.mark.parametrize(
    "kind", ["cpu-throttle-alert", "bcpu-throttle-alert", "gpu-balanced", "thermal-cpufreq-0", "devfreq-17000000.gpu"]
)
def test_what_slows_a_processor_is_throttling(tmp_path, kind):
    cooling(tmp_path, kind, "hot-surface-alert")

    assert throttled_by(tmp_path) == [kind]


@pytest.mark.parametrize(
    ("trips", "throttles"), [(["active"], False), (["passive"], True), (["active", "passive"], True), (["hot"], False)]
)
def test_a_device_of_unknown_type_does_what_the_trips_say_that_it_is_bound_to(tmp_path, trips, throttles):
    cooling(tmp_path, "some-alert")
    zone = tmp_path / "class/thermal/thermal_zone0"
    for number, kind in enumerate(trips):
        write(zone, {f"trip_point_{number}_type": kind + "\n", f"cdev{number}_trip_point": f"{number}\n"})
        (zone / f"cdev{number}").symlink_to("../cooling_device0")

    assert throttled_by(tmp_path) == (["some-alert"] if throttles else None)
