"""The door: an archive from elsewhere is checked before any part of it is read."""

import gzip
import io
import tarfile

import pytest

from lightnas_edge.field_test import FieldTestError, unpack
from lightnas_edge.field_test import archive as door
from lightnas_edge.field_test.scrub import Scrubber


def made(path, *members, compress=gzip.compress):
    """An archive of (name, content) and of TarInfo."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    path.write_bytes(compress(raw.getvalue()))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


SUMMARY = ("field-test/summary.json", b"{}")


def test_what_was_packed_is_unpacked(tmp_path):
    (tmp_path / "from/logs").mkdir(parents=True)
    (tmp_path / "from/summary.json").write_text("{}")
    (tmp_path / "from/logs/x.log").write_text("line\n")

    door.pack(tmp_path / "from", tmp_path / "a.tar.gz")
    folder = unpack(tmp_path / "a.tar.gz", tmp_path / "to")

    assert (folder / "logs/x.log").read_text() == "line\n"


def test_an_archive_has_no_owner_no_time_and_no_path_of_the_machine(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from/summary.json").write_text("{}")
    door.pack(tmp_path / "from", tmp_path / "a.tar.gz")

    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        facts = {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in tar}

    assert facts == {(0, 0, "", "", 0)}
    assert str(tmp_path).encode() not in (tmp_path / "a.tar.gz").read_bytes()


@pytest.mark.parametrize(
    "member",
    [
        ("field-test/../../outside", b"x"),
        ("/etc/passwd", b"x"),
        ("../outside", b"x"),
        ("elsewhere/x", b"x"),
        ("field-test/a/./b", b"x"),
        ("field-test/with space", b"x"),
        ("field-test/new\nline", b"x"),
        ("field-test/" + "d/" * 20 + "x", b"x"),
        special("field-test/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("field-test/hard", tarfile.LNKTYPE, "field-test/summary.json"),
        special("field-test/pipe", tarfile.FIFOTYPE),
        special("field-test/device", tarfile.CHRTYPE),
        SUMMARY,  # twice
    ],
    ids=lambda member: repr(getattr(member, "name", member[0] if isinstance(member, tuple) else member))[:40],
)
def test_an_odd_member_is_refused_and_nothing_leaves_the_folder(tmp_path, member):
    archive = made(tmp_path / "a.tar.gz", SUMMARY, member)

    with pytest.raises(FieldTestError, match=r"no plain file|no name of a field test's file|there twice"):
        unpack(archive, tmp_path / "inner/to")

    outside = {path.name for path in tmp_path.rglob("*")} - {"a.tar.gz", "inner", "to", "field-test", "summary.json"}
    assert outside == set()


def test_content_beyond_the_limit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "LARGEST_CONTENT", 1 << 20)
    archive = made(tmp_path / "a.tar.gz", SUMMARY, ("field-test/zeros", bytes(4 << 20)))

    with pytest.raises(FieldTestError, match="larger than 1 MiB"):
        unpack(archive, tmp_path / "to")

    assert not (tmp_path / "to").exists()


def test_an_archive_that_is_too_long_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "LARGEST_ARCHIVE", 10)

    with pytest.raises(FieldTestError, match="is larger than"):
        unpack(made(tmp_path / "a.tar.gz", SUMMARY), tmp_path / "to")


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "MOST_FILES", 3)
    archive = made(tmp_path / "a.tar.gz", SUMMARY, *((f"field-test/{n}", b"") for n in range(5)))

    with pytest.raises(FieldTestError, match="more than 3 files"):
        unpack(archive, tmp_path / "to")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", gzip.compress(b""), gzip.compress(b"text " * 400), gzip.compress(bytes(10240))[:20]],
    ids=["empty", "text", "empty gzip", "gzip of text", "cut"],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)

    with pytest.raises(FieldTestError, match=r"archive|a\.tar\.gz"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "to")


def test_every_cut_and_every_flipped_byte_gives_an_error_of_the_family_or_the_content(tmp_path):
    whole = made(tmp_path / "a.tar.gz", SUMMARY, ("field-test/logs/x.log", b"line\n" * 50)).read_bytes()
    for number in range(len(whole)):
        for content in (whole[:number], whole[:number] + bytes([whole[number] ^ 0x55]) + whole[number + 1 :]):
            (tmp_path / "b.tar.gz").write_bytes(content)
            try:
                unpack(tmp_path / "b.tar.gz", tmp_path / f"to-{number}")
            except FieldTestError:
                continue


def test_a_missing_archive_and_a_folder_are_errors(tmp_path):
    for path in (tmp_path / "missing.tar.gz", tmp_path):
        with pytest.raises(FieldTestError, match="cannot read"):
            unpack(path, tmp_path / "to")


def test_an_archive_of_something_else_is_named(tmp_path):
    with pytest.raises(FieldTestError, match=r"holds no field-test/summary\.json"):
        unpack(made(tmp_path / "a.tar.gz", ("field-test/README.md", b"x")), tmp_path / "to")


def test_a_file_that_still_names_the_board_stops_the_packing(tmp_path, monkeypatch):
    (tmp_path / "x.log").write_text("at zebra-7\n")
    scrubber = Scrubber()
    scrubber.learn({"host name": ["zebra-7"]})
    monkeypatch.setattr(scrubber, "text", lambda text: text)

    with pytest.raises(FieldTestError, match=r"x\.log still contains a host name"):
        door.scrub(tmp_path, scrubber)
