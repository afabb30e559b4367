"""Virtual units of one model."""

import json

import devices


def hosts(*units):
    return ",".join(f"virtual:jetson-orin-nano#{unit}" for unit in units)


def slow_down(unit, factor):
    """Make a virtual unit slower in everything."""
    connection = devices.connect(hosts(unit))
    path = connection.root / "virtual.json"
    spec = json.loads(path.read_text())
    spec["macs_per_ns"] = {name: value / factor for name, value in spec["macs_per_ns"].items()}
    spec |= {"bandwidth_gb_s": spec["bandwidth_gb_s"] / factor}
    spec |= {name: spec[name] * factor for name in ("launch_us", "sync_us")}
    path.write_text(json.dumps(spec))
