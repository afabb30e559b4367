"""What identifies a board or a person leaves a text; what only looks alike stays."""

import json
from pathlib import Path

import pytest

import luts
from lightnas_edge.field_test.scrub import Scrubber, this_machine, way_to
from profiler.journal import encode


def scrubber(**private):
    made = Scrubber()
    made.learn({kind.replace("_", " "): texts for kind, texts in private.items()})
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh zebra-7.lab.example: refused", "ssh REMOVED-HOST: refused"),
        ("ZEBRA-7 and zebra-7.local", "REMOVED-HOST and REMOVED-HOST.local"),
        ("zebra-77 and azebra-7 are others", "zebra-77 and azebra-7 are others"),
        ("/home/okapi/.ssh and okapi@x", "REMOVED-HOME/.ssh and REMOVED-USER@x"),
        ("/home/stranger/models", "REMOVED-HOME/models"),
        ("Olivia Okapi", "REMOVED-USER"),
        (json.dumps("jörgensen"), '"REMOVED-USER"'),
        ("from 192.168.55.1 port 22", "from REMOVED-ADDRESS port 22"),
        ("[fe80::1%usb0]:22 2001:db8::17", "[REMOVED-ADDRESS]:22 REMOVED-ADDRESS"),
        ("48:b0:2d:11:22:33 48-B0-2D-11-22-33", "REMOVED-MAC REMOVED-MAC"),
        ("Serial\t\t: 1421019054321", "Serial\t\t: REMOVED-SERIAL"),
        ('"serial_number": "0423018076543"', '"serial_number": "REMOVED-SERIAL"'),
        ("SHA256:" + "a" * 43, "REMOVED-FINGERPRINT"),
        ("MD5:" + ":".join(["5f"] * 16), "REMOVED-FINGERPRINT"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI= me", "REMOVED-KEY me"),
        (json.dumps("a\nzebra-7\t10.0.0.1\nokapi"), '"a\\nREMOVED-HOST\\tREMOVED-ADDRESS\\nREMOVED-USER"'),
        (repr(b"\x00zebra-7"), r"b'\x00REMOVED-HOST'"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAA\n-----END OPENSSH PRIVATE KEY-----", "REMOVED-KEY"),
        ("GPU-11111111-2222-3333-4444-555555555555", "REMOVED-ID"),
    ],
)  # fmt: skip
def test_names_and_addresses_are_removed(text, expected):
    known = scrubber(
        host_name=["zebra-7.lab.example"], user_name=["Olivia Okapi", "jörgensen"], home_folder=["/home/okapi"]
    )

    assert known.text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "tensorrt 8.5.2.2-1+cuda11.4",
        '"version": "10.3.0.30"',
        "kernel 5.15.148-tegra, L4T 36.4.7",
        "std::bad_alloc at 12:34:56, Ort::Session",
        "nvidia,p3448-0000\0nvidia,tegra210",
        '{"energy": {"total": 1.5}, "host": null}',
        "1700000000.5::RAM 1903/3964MB",
        "serial: 12",
    ],
)
def test_versions_times_and_the_words_of_boards_and_records_stay(text):
    known = scrubber(host_name=["jetson", "nano"], user_name=["nvidia", "energy", "total", "ubuntu"])

    assert known.text(text) == text
    assert known.remaining(text) == []


def test_a_user_with_the_name_of_a_board_is_removed_where_it_is_a_name():
    known = scrubber(user_name=["nvidia"], home_folder=["/home/nvidia"])

    assert known.text("nvidia@jetson:/home/nvidia/x") == "REMOVED-USER@jetson:REMOVED-HOME/x"


def test_what_was_removed_is_counted_by_kind():
    known = scrubber(host_name=["zebra-7"])
    known.text("zebra-7 zebra-7 10.0.0.1")

    assert {kind: count for kind, count in known.removed.items() if count} == {"host name": 2, "IP address": 1}


def test_a_journal_without_names_has_right_checksums_and_a_damaged_line_stays_damaged():
    whole = encode({"kind": "visit", "host": "zebra-7", "t_s": 1.5})
    damaged = whole.replace(b"1.5", b"1.6")
    same = encode({"kind": "visit", "key": "stem"})

    first, second, third, rest = scrubber(host_name=["zebra-7"]).journal(whole + damaged + same).split(b"\n")

    assert b"zebra" not in first + second
    stated, computed = luts.checksum(first)
    assert stated == computed
    stated, computed = luts.checksum(second)
    assert stated != computed
    assert third + b"\n" == same
    assert rest == b""


def test_remaining_names_are_reported_by_kind_alone():
    assert scrubber(host_name=["zebra-7"]).remaining("at zebra-7") == ["host name"]


def test_this_machine_names_its_user_and_home(monkeypatch):
    monkeypatch.setenv("USER", "okapi")
    monkeypatch.setenv("HOME", "/home/okapi")

    private = this_machine()

    assert "okapi" in private["user name"]
    assert "/home/okapi" in private["home folder"]


def test_the_way_to_a_board_has_its_name_address_and_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()

    private = way_to("okapi@zebra-7.lab.example:2222")

    assert "zebra-7.lab.example" in private["host name"]
    assert "okapi" in private["user name"]
    assert way_to("localhost") == way_to("virtual:jetson-nano") == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"backend":"tensorrt","backend_version":"8.5.2.2"}',
        '"engines": {"tensorrt": "8.5.2.2"}',
        "tensorrt 8.5.2.2, cuda 11.4",
        '{"text":"{\\"version\\":\\"8.5.2.2\\"}"}',
    ],
)
def test_a_version_that_the_board_names_is_no_address(text):
    known = scrubber()
    known.keep(["8.5.2.2"])

    assert known.text(text) == text
    assert known.text(f"{text} 10.0.0.5") == f"{text} REMOVED-ADDRESS"


def test_a_user_without_an_entry_in_passwd_is_no_error(monkeypatch):
    def missing():
        raise KeyError("getpwuid(): uid not found: 1234")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("getpass.getuser", missing)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("USER", raising=False)

    Scrubber().learn(this_machine())
