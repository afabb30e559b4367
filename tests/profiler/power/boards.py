"""Folders of text files that represent a board's /sys, in the form of each generation's driver."""


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def iio_chip(sys, rails, where="6-0040"):
    """JetPack 4. `rails`: [(label, mV, mA)], channels from 0."""
    folder = sys / f"bus/i2c/drivers/ina3221x/{where}/iio:device0"
    for channel, (label, millivolts, milliamps) in enumerate(rails):
        write(folder / f"rail_name_{channel}", label)
        write(folder / f"in_voltage{channel}_input", millivolts)
        write(folder / f"in_current{channel}_input", milliamps)
        write(folder / f"in_power{channel}_input", millivolts * milliamps // 1000)
    write(folder / "running_mode", 1)
    (sys / "bus/i2c/drivers/ina3221x/bind").touch()
    return folder


def hwmon_chip(sys, rails, where="1-0040", number=3, shunt_uohm=5000, samples=512, update_interval_ms=430):
    """JetPack 5 and later. `rails`: [(label, mV, mA)], channels from 1; the chip's sum channels are there as well."""
    folder = sys / f"bus/i2c/drivers/ina3221/{where}/hwmon/hwmon{number}"
    for channel, (label, millivolts, milliamps) in enumerate(rails, 1):
        write(folder / f"in{channel}_label", label)
        write(folder / f"in{channel}_input", millivolts)
        write(folder / f"curr{channel}_input", milliamps)
        write(folder / f"shunt{channel}_resistor", shunt_uohm)
        write(folder / f"in{channel + 3}_input", 5000)  # shunt voltage in uV
    write(folder / "in7_label", "sum of shunt voltages")
    write(folder / "in7_input", 15000)
    write(folder / "curr4_input", 9999)
    write(folder / "samples", samples)
    write(folder / "update_interval", update_interval_ms)
    return folder


def ina238_chip(sys, microwatts, millivolts=20000, where="2-0044", number=5, shunt_uohm=1000, gain=None):
    """AGX Thor: a hwmon device without a label, and the device tree's node with four bytes a number."""
    device = sys / f"bus/i2c/drivers/ina238/{where}"
    folder = device / f"hwmon/hwmon{number}"
    write(folder / "name", "ina238")
    write(folder / "power1_input", microwatts)
    write(folder / "in0_input", 2)
    write(folder / "in1_input", millivolts)
    write(folder / "curr1_input", microwatts // millivolts)
    node = device / "of_node"
    node.mkdir()
    for name, value in (("shunt-resistor", shunt_uohm), ("ti,shunt-gain", gain)):
        if value is not None:
            (node / name).write_bytes(value.to_bytes(4, "big"))
    (sys / "bus/i2c/drivers/ina238/bind").touch()
    return folder


NANO = [("POM_5V_GPU", 5000, 40), ("POM_5V_IN", 5000, 776), ("POM_5V_CPU", 5000, 120)]
ORIN_NX = [("VDD_IN", 5064, 1080), ("VDD_CPU_GPU_CV", 5064, 192), ("VDD_SOC", 5064, 312)]
AGX_ORIN = [("VDD_GPU_SOC", 19968, 260), ("VDD_CPU_CV", 19968, 100), ("VIN_SYS_5V0", 5024, 860)]
AGX_ORIN_SECOND = [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5024, 80), ("NC", 0, 0)]


def agx_orin(sys):
    hwmon_chip(sys, AGX_ORIN, shunt_uohm=2000)
    hwmon_chip(sys, AGX_ORIN_SECOND, where="1-0041", number=4, shunt_uohm=2000)
    return sys
