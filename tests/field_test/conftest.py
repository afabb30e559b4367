"""A field test of a virtual board, run once; its board and this machine's user have names that stand nowhere else."""

import gzip
import tarfile
from collections import namedtuple

import pytest

import devices
from lightnas_edge.field_test import run_field_test

# Kind -> the texts of that kind that the board and the user of these tests have.
PRIVATE = {
    "host name": ["zebra-7", "ZEBRA-7.local"],
    "user name": ["okapi"],
    "home folder": ["/home/okapi", "/home/stranger"],
    "IP address": ["192.168.55.1", "10.20.30.40", "fe80::4e32:75ff:fe11:2233", "2001:db8::17"],
    "MAC address": ["48:b0:2d:11:22:33", "48-B0-2D-AA-BB-CC"],
    "serial number": ["1421019054321", "0423018076543"],
    "machine id": ["0f1e2d3c4b5a69788796a5b4c3d2e1f0", "GPU-11111111-2222-3333-4444-555555555555"],
    "boot id": ["9a8b7c6d-1111-4222-8333-444455556666"],
    "fingerprint": ["SHA256:" + "Kx7" * 14 + "z", "MD5:" + ":".join(["5f"] * 16)],
    "key": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOkapiOkapi"],
}
RAILS = "RAM 1903/3964MB (lfb 4x4MB) CPU [2%@102,0%@102,0%@102,0%@102] GR3D_FREQ 0%@76 PLL@24C CPU@26C POM_5V_IN 1500/1500 POM_5V_GPU 40/40 POM_5V_CPU 240/240"  # fmt: skip

FieldTestOfBoard = namedtuple("FieldTestOfBoard", "test archive root before")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def give_names(root):
    """Every private text into files that the agent reads, and into what its tools print."""
    every = "\n".join(text for texts in PRIVATE.values() for text in texts)
    write(root / "proc/sys/kernel/hostname", PRIVATE["host name"][0] + "\n")
    write(root / "proc/device-tree/serial-number", PRIVATE["serial number"][0] + "\0")
    write(root / "etc/machine-id", PRIVATE["machine id"][0] + "\n")
    write(root / "proc/sys/kernel/random/boot_id", PRIVATE["boot id"][0] + "\n")
    write(root / "sys/class/net/eth0/address", PRIVATE["MAC address"][0] + "\n")
    with (root / "proc/cpuinfo").open("a") as file:
        file.write(f"Serial\t\t: {PRIVATE['serial number'][1]}\n")
    with (root / "etc/os-release").open("a", encoding="utf-8") as file:
        file.write(f"\n# {every}\n")
    tool = root / "usr/sbin/tegrastats"
    write(tool, f"#!/bin/sh\nwhile true; do echo '{RAILS}'; sleep 0.2; done\n")
    tool.chmod(0o755)


def files_of(root):
    """Path -> content of what a field test could change for good on a virtual board."""
    kept = [path for path in root.rglob("*") if path.is_file() and path.name not in ("virtual.state", "tools.log")]
    # Temperatures, currents and present clocks follow the simulated load.
    live = ("cur_freq", "temp", "_input", "cur_state", "event_cnt", "scaling_cur_freq")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in kept
        if not path.name.endswith(live) and "tensorrt" not in path.parts
    }


@pytest.fixture(scope="session")
def virtual(tmp_path_factory):
    """A quick field test of the virtual Jetson Nano, with names."""
    folder = tmp_path_factory.mktemp("field-test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "agent-home"))
        patch.setenv("USER", "okapi")
        connection = devices.connect("virtual:jetson-nano")
        give_names(connection.root)
        before = files_of(connection.root)
        archive = folder / "nano.tar.gz"
        test = run_field_test("virtual:jetson-nano", lambda: connection, archive, quick=True)
    return FieldTestOfBoard(test, archive, connection.root, before)


def bytes_of(archive):
    """Every byte of an archive: as it is, and without its compression."""
    with tarfile.open(archive) as tar:
        names = "\n".join(tar.getnames()).encode()
    return archive.read_bytes() + names + gzip.decompress(archive.read_bytes())
