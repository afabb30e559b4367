"""Links, tests, modules and records that the documentation names exist."""

import re
from pathlib import Path

import pytest

from lightnas_edge.records.__main__ import file_records

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def anchors(text):
    """Of the headings of a page, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@each_page
def test_links_lead_to_files_and_headings(page):
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


@each_page
def test_named_tests_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = []
    for path, test in re.findall(r"(?<![\w/.])((?:tests/)?(?:[a-z_]+/)*test_[a-z_]+\.py)(?:::(test_\w+))?", text):
        file = ROOT / "tests" / path.removeprefix("tests/")
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(f"{path}::{test}")
    for path in re.findall(r"`((?:lightnas_edge|luts|devices|profiler|benchmarks|studies|docs)/[\w/.-]*)`", text):
        if not (ROOT / path).exists():
            missing.append(path)
    for module in re.findall(r"python -m ((?:benchmarks|studies)\.\w+)", text):
        if not (ROOT / (module.replace(".", "/") + ".py")).exists():
            missing.append(module)
    assert missing == []


def test_every_study_says_what_it_showed():
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "studies" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == sorted(path.stem for path in (ROOT / "studies").glob("*.py") if path.stem != "__init__")


def test_the_page_of_formats_lists_every_record_with_its_schema():
    rows = re.findall(
        r"^\|[^|]*\| (`[a-z].*?`) \| (\d+|-) \| (.*) \|$",
        (ROOT / "docs/formats.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    listed = {kind: schema for kinds, schema, _ in rows for kind in re.findall(r"`([^`]*)`", kinds)}
    records = {record.model_fields["kind"].default: record for record in file_records().values()}

    assert {kind: listed.get(kind) for kind in records} == {
        kind: str(record.model_fields["schema_"].default) if "schema_" in record.model_fields else "-"
        for kind, record in records.items()
    }


def test_the_table_of_engines_names_the_precisions_that_each_of_them_has():
    from lightnas_edge.measuring.engines import PRECISIONS, PRECISIONS_OF

    text = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|`]+ ?\(?`([a-z-]+)`\)? \|([^|]+)\|([^|]+)\|([^|]+)\|$", text, re.MULTILINE)

    written = {
        backend: tuple(name for name, cell in zip(PRECISIONS, cells, strict=True) if not re.match(r" no\b", cell))
        for backend, *cells in rows
        if backend in PRECISIONS_OF
    }
    assert written == PRECISIONS_OF
