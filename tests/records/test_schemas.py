"""docs/schemas describes the files as the program reads them."""

from pathlib import Path

from lightnas_edge.records.__main__ import file_records, schema

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


def test_the_schemas_in_the_docs_are_those_of_the_records():
    """`make schemas` writes them."""
    written = {path.name.removesuffix(".schema.json"): path.read_text() for path in FOLDER.glob("*.schema.json")}

    assert written == {name: schema(record) for name, record in file_records().items()}
