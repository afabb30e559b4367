"""Every command in the documentation is one that the program's own parser accepts."""

import re
import shlex
from pathlib import Path

import pytest

from lightnas_edge.cli import all_commands, leaf_parsers
from tests.cli.test_remedies import PROGRAMS, refusal

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_PROGRAM = f"(?:{'|'.join(PROGRAMS)})"


def blocks(text):
    """Lines of indented and fenced blocks, with continuations joined."""
    fenced = re.findall(r"^```(?!python)\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4,}\S.*$(?:\n {4,}\S.*$)*", text, re.MULTILINE)
    for block in [*fenced, *indented]:
        yield from re.sub(r"\s*\\\n\s*", " ", block).splitlines()


def commands_of(text):
    """Commands of blocks and of code within a line; what follows two blanks or a # is an explanation."""
    for line in blocks(text):
        line = re.split(r"\s{2,}|\s#\s", line.strip().removeprefix("$ "))[0]
        yield from (part for part in line.split("; ") if re.match(rf"{_PROGRAM}\b", part))
    yield from re.findall(rf"`({_PROGRAM}(?: [^`]*)?)`", text)


def without_ellipsis(command):
    return " ".join(word for word in shlex.split(command) if word not in ("...", "[...]"))


COMMANDS = sorted({(page.name, command) for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))})
LEAVES = {parser.prog.removeprefix("lightnas-edge "): parser for parser in leaf_parsers(all_commands())}


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page} {command}" for page, command in COMMANDS])
def test_a_documented_command_parses(page, command, capsys):
    said = refusal(without_ellipsis(command))
    assert not said, f"{page}: {said}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_command_in_short_has_the_options_that_the_text_gives_it(page):
    """`fit --compare` in a sentence names no file, so it does not parse; its options must exist."""
    wrong = []
    for short in re.findall(r"`([a-z][a-z -]*? --[^`]*)`", page.read_text(encoding="utf-8")):
        name = short.split(" --")[0]
        if name in LEAVES:
            known = LEAVES[name]._option_string_actions
            wrong += [short for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", short) if option not in known]
    assert wrong == []


def test_the_collector_sees_commands_of_every_form():
    """A collector that finds nothing would let everything pass."""
    text = "Use `lightnas-edge verify RUN`.\n\n    $ lightnas-edge train RUN; lightnas-edge export RUN   weights\n    profile-device \\\n      --space tiny\n"

    assert list(commands_of(text)) == [
        "lightnas-edge train RUN", "lightnas-edge export RUN", "profile-device --space tiny", "lightnas-edge verify RUN",
    ]  # fmt: skip
    named = {command.split()[1] for _, command in COMMANDS if command.startswith("lightnas-edge ")}
    assert {"boards", "probe", "sample", "fit", "search", "train", "export", "verify", "report", "pull"} <= named
