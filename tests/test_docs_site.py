"""Pages of the site that are made from the program. The site itself is built by `make docs`, strictly."""

import re
from pathlib import Path

import yaml

import lightnas_edge as le
from docs.site.html import faults_of
from docs.site.links import with_site_links
from docs.site.markdown import for_mkdocs
from docs.site.reference import commands_page, fields_page, python_page
from lightnas_edge.cli import all_commands, leaf_parsers

EVERYWHERE = {"--help", "--verbose", "--quiet", "--log-file"}  # at the head of the page
DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_commands_has_every_command_and_every_option():
    page = commands_page()
    sections = {section.partition("\n")[0]: section for section in page.split("\n## ")[1:]}

    for parser in leaf_parsers(all_commands()):
        section = sections[parser.prog]
        for action in parser._actions:
            spelled = [option for option in action.option_strings if option.startswith("--")]
            assert all(option in EVERYWHERE or option in section for option in spelled), parser.prog
        if "example" in (parser.epilog or ""):
            assert "```sh\n" in section, parser.prog


def test_texts_of_commands_are_shown_and_not_taken_for_markdown():
    page = commands_page()
    row = next(line for line in page.splitlines() if line.startswith("| <code>--only OPERATOR"))

    assert row.count("|") == 3
    assert "'\\*\\_e6@\\*'" in row
    assert not re.search(r"%\(|%%", page)  # argparse has filled in its placeholders


def test_the_page_of_python_has_every_name_of_the_door():
    page = python_page()
    assert all(f"::: {module}.{name}\n" in page for module, name in le._PLACES.values())


def test_the_page_of_fields_has_every_schema_and_says_what_may_be_null():
    page = fields_page(DOCS / "schemas")
    headings = set(re.findall(r"^## (\S+)$", page, re.MULTILINE))

    assert headings == {path.name.removesuffix(".schema.json") for path in (DOCS / "schemas").glob("*.json")}
    assert re.search(r"<code>gross&#95;mj</code> \| number or null \| required", page)


def test_links_out_of_the_documentation_lead_to_its_pages():
    assert with_site_links("[r](../README.md#what-ran-where)", "energy.md") == "[r](index.md#what-ran-where)"
    assert with_site_links("[r](../../README.md)", "how-to/x.md") == "[r](../index.md)"
    assert (
        with_site_links("[t](tutorial.ipynb) [o](https://x.org/README.md)", "index.md")
        == "[t](tutorial.md) [o](https://x.org/README.md)"
    )


def test_lists_and_tables_after_a_paragraph_are_seen():
    assert for_mkdocs("Words:\n- one\n- two\n") == "Words:\n\n- one\n- two\n"
    assert for_mkdocs("Words:\n| a |\n|---|\n") == "Words:\n\n| a |\n|---|\n"
    assert for_mkdocs("```\nx\n- y\n```\n") == "```\nx\n- y\n```\n"


def test_a_page_that_loads_from_elsewhere_or_shows_markdown_is_found():
    assert list(faults_of('<a href="https://x.org">x</a><script src="assets/x.js"></script><code>| a |</code>')) == []
    assert (
        len(list(faults_of('<script src="https://x.org/x.js"></script><link rel="stylesheet" href="//y.org/y.css">')))
        == 2
    )
    assert len(list(faults_of("<p>| a | b |</p>"))) == 1


def test_every_page_has_a_place():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
    config = yaml.load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    placed = set(re.findall(r"[\w./-]+\.(?:md|ipynb)", str(config["nav"])))

    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} <= placed
    assert config["strict"] and not config["use_directory_urls"] and config["theme"]["font"] is False
