"""From `--host` to where to connect."""

import getpass

import pytest

from devices import BoardUnreachableError, InventoryEntry, add_board
from devices.endpoint import resolve, split_address

PIN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGErbTW7ZbvT6Hpxfb8vWRB8FKVqMLAQ0Ei8rAbyxmo2"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def config(home):
    return (home / ".ssh" / "config").write_text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("jetson.local", (None, "jetson.local", None)),
        ("nvidia@jetson", ("nvidia", "jetson", None)),
        ("nvidia@192.168.55.1:2222", ("nvidia", "192.168.55.1", 2222)),
        ("fe80::1%usb0", (None, "fe80::1%usb0", None)),
        ("u@[fe80::1]:2222", ("u", "fe80::1", 2222)),
    ],
)
def test_addresses_are_split(text, parts):
    assert split_address(text) == parts


@pytest.mark.parametrize(
    "text", ["", "u@", "h:0", "h:70000", "h:x", "a b", "-oProxyCommand=x", "h\nx", "[::1", "a@b@c"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BoardUnreachableError, match="is not a host"):
        split_address(text)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(BoardUnreachableError) as caught:
        split_address("nvidia:hunter2@jetson")
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_without_any_file_the_defaults_hold(home):
    found = resolve("jetson")

    assert (found.host, found.port, found.user) == ("jetson", 22, getpass.getuser())
    assert found.known_hosts[0] == home / ".ssh" / "known_hosts"


def test_what_is_typed_comes_before_boards_toml_and_that_before_ssh_config(home, config):
    config("Host real\n  HostName 10.0.0.1\n  User from-config\n  Port 1\n  IdentityFile ~/.ssh/k\n")
    add_board(InventoryEntry(name="nano", host="real", port=2))

    found = resolve("typed@nano")

    assert (found.host, found.port, found.user) == ("10.0.0.1", 2, "typed")
    assert resolve("nano").user == "from-config"
    assert resolve("real").port == 1
    assert found.key_files == (home / ".ssh" / "k",)


def test_a_pinned_board_trusts_its_own_key_alone_whatever_its_address_is_known_for(home):
    (home / ".ssh" / "known_hosts").write_text(
        "192.168.55.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"
    )
    add_board(InventoryEntry(name="nano", host="192.168.55.1", host_key=PIN))

    assert [str(key) for key, _ in resolve("nano").known_keys().accepted] == [PIN]
    assert len(resolve("192.168.55.1").known_keys().accepted) == 2


def test_jump_hosts_come_in_order_and_each_by_its_own_settings(config):
    config(
        "Host board\n  HostName 10.0.0.9\n  ProxyJump gate,u@middle:2200\n"
        "Host gate\n  HostName gate.example\n  Port 443\n  ProxyJump outer\n"
    )

    hops = resolve("board").jumps

    assert [(hop.host, hop.port) for hop in hops] == [("outer", 22), ("gate.example", 443), ("middle", 2200)]
    assert hops[2].user == "u"
    assert all(hop.jumps == () for hop in hops)


def test_jumps_in_a_cycle_are_refused(config):
    config("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")

    with pytest.raises(BoardUnreachableError, match="forms a cycle: a -> b -> a"):
        resolve("a")


def test_a_proxy_command_leads_to_the_first_host_alone(config):
    config("Host board\n  ProxyJump gate,middle\nHost gate middle\n  ProxyCommand nc %h %p\n")

    found = resolve("board")

    assert [hop.proxy_command for hop in found.jumps] == ["nc gate 22", ""]
    assert found.proxy_command == ""


def test_a_host_key_alias_and_other_known_hosts_files_are_honoured(home, config):
    config("Host a\n  HostKeyAlias lab\n  UserKnownHostsFile ~/other /dev/null\n")

    found = resolve("a")

    assert found.alias == "lab"
    assert found.known_hosts[0] == home / "other"


def test_a_file_that_includes_itself_is_reported(config):
    config("Include config\n")

    with pytest.raises(BoardUnreachableError, match="includes itself"):
        resolve("a")
