"""Which host keys are accepted. The known_hosts forms are those of OpenSSH's sshd(8) manual."""

import shutil
import subprocess

import pytest

from devices import HostKeyError
from devices.host_keys import HostKey, KnownKeys, check, host_name_in_known_hosts, read_known_hosts

ONE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGErbTW7ZbvT6Hpxfb8vWRB8FKVqMLAQ0Ei8rAbyxmo2"
TWO = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"  # GitHub's
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ=="


@pytest.fixture
def known(tmp_path):
    """Reads what a known_hosts text says about a host."""

    def read(text, name):
        path = tmp_path / "known_hosts"
        path.write_text(text)
        return read_known_hosts([path, tmp_path / "not there"], name)

    return read


def test_fingerprints_are_those_that_openssh_shows():
    assert HostKey.parse(TWO).fingerprint == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"  # docs.github.com


@pytest.mark.parametrize(
    ("hosts", "name", "verdict"),
    [
        ("jetson", "jetson", "known"),
        ("jetson", "jetson.local", "unknown"),
        ("Jetson", "jetson", "known"),
        ("nano,192.168.55.1", "192.168.55.1", "known"),
        ("*.lab", "nano.lab", "known"),
        ("nano?", "nano7", "known"),
        ("*.lab,!agx.lab", "agx.lab", "unknown"),
        ("!agx.lab,*.lab", "agx.lab", "unknown"),
        ("[jetson]:2222", "[jetson]:2222", "known"),
        ("[jetson]:2222", "jetson", "unknown"),
        ("jetson", "[jetson]:2222", "unknown"),
        ("# jetson", "jetson", "unknown"),
    ],
)
def test_names_wildcards_negations_and_ports(known, hosts, name, verdict):
    assert known(f"{hosts} {ONE}\n", name).verdict(HostKey.parse(ONE)) == verdict


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen; apt-get install openssh-client")
def test_names_hashed_by_openssh_are_found(tmp_path, known):
    path = tmp_path / "hashed"
    path.write_text(f"jetson {ONE}\n[jetson]:2222 {TWO}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    text = path.read_text()

    assert "jetson" not in text
    assert known(text, "jetson").verdict(HostKey.parse(ONE)) == "known"
    assert known(text, "[jetson]:2222").verdict(HostKey.parse(TWO)) == "known"
    assert known(text, "other").verdict(HostKey.parse(ONE)) == "unknown"


def test_another_key_than_the_known_one_is_a_change(known):
    assert known(f"jetson {ONE}\n", "jetson").verdict(HostKey.parse(TWO)) == "changed"
    assert known(f"jetson {RSA}\n", "jetson").verdict(HostKey.parse(TWO)) == "changed"


def test_a_revoked_key_is_refused_though_it_is_known(known):
    found = known(f"jetson {ONE}\n@revoked * {ONE}\n", "jetson")

    assert found.verdict(HostKey.parse(ONE)) == "revoked"
    with pytest.raises(HostKeyError, match="marked as revoked"):
        check(HostKey.parse(ONE), found, label="jetson", address="jetson", board=None)


def test_an_authority_is_no_host_key(known):
    assert known(f"@cert-authority *.lab {ONE}\n", "nano.lab").verdict(HostKey.parse(ONE)) == "unknown"


@pytest.mark.parametrize(
    "line", ["jetson", "jetson ssh-ed25519 !!!", "jetson ssh-rsa AAAA", "|1|x jetson y", "\x00\xff"]
)
def test_damaged_lines_count_for_nothing_and_hide_nothing(known, line):
    found = known(f"{line}\njetson {ONE}\n", "jetson")

    assert found.verdict(HostKey.parse(ONE)) == "known"
    assert len(found.accepted) == 1


def test_keys_of_known_types_are_proposed_first(known):
    assert known(f"jetson {RSA}\njetson {ONE}\n", "jetson").algorithms == (
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-ed25519",
    )


def test_names_in_known_hosts_carry_the_port_unless_it_is_22():
    assert host_name_in_known_hosts("Jetson", 22) == "jetson"
    assert host_name_in_known_hosts("Jetson", 2222) == "[jetson]:2222"


def test_a_pinned_board_that_changed_is_reported_how_to_be_forgotten():
    known = KnownKeys(((HostKey.parse(ONE), "boards.toml, nano"),))

    with pytest.raises(HostKeyError, match=r"the host key of nano has changed\n  known: .*boards.toml, nano") as caught:
        check(HostKey.parse(TWO), known, label="nano", address="192.168.55.1", board="nano")
    assert "lightnas-edge boards remove nano" in caught.value.hint


def test_a_named_board_whose_key_stands_in_known_hosts_is_forgotten_there_and_keeps_its_entry():
    known = KnownKeys(((HostKey.parse(ONE), "/home/u/.ssh/known_hosts, line 3"),))

    with pytest.raises(HostKeyError) as caught:
        check(HostKey.parse(TWO), known, label="nano", address="192.168.55.1", board="nano")
    assert "ssh-keygen -R '192.168.55.1'; then `lightnas-edge boards add nano`" in caught.value.hint
    assert "boards remove" not in caught.value.hint


def test_an_address_whose_key_is_pinned_to_a_board_is_forgotten_with_the_board():
    known = KnownKeys(((HostKey.parse(ONE), "boards.toml, nano"),))

    with pytest.raises(HostKeyError) as caught:
        check(HostKey.parse(TWO), known, label="u@192.168.55.1", address="192.168.55.1", board=None)
    assert "lightnas-edge boards remove nano; then" in caught.value.hint and "ssh-keygen -R" not in caught.value.hint
