"""Every command that the program prints as a remedy or an example is one that its own parser accepts."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

from lightnas_edge.cli import all_commands, leaf_parsers, profile_device_alone
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.space import load_space

ROOT = Path(__file__).parents[2]
PACKAGES = ("lightnas_edge", "luts", "devices")
PROGRAMS = ("lightnas-edge", "profile-device")

# What stands for a value of the user, and for the holes of f-strings, by a part of the expression.
PLACEHOLDERS = {"MS": "20", "MJ": "3", "MB": "3", "N": "3", "PERCENT": "1", "SHA256:...": "SHA256:abc"}
HOLES = {
    "NETWORK_METRICS": "--samples FILE ",
    "options": "--space tiny --host board", "len(": "3", "classes": "3", "rounds": "3", "count": "3", "minimum": "3",
    "LEAST": "3", "metric": "latency_ms", "fingerprint": "SHA256:abc", "address": "user@board", "command": "demo",
    "only": " --only stem", "name.replace": "verbose",
}  # fmt: skip
# Options of other programs that texts name: ssh and pip, and trtexec.
FILLED = {"--metric": "latency_ms", "--precision": "int8"}  # what stands for a hole that has choices
FOREIGN_OPTIONS = {
    "--user", "--upgrade", "--skipInference", "--memPoolSize", "--verbose", "--useCudaGraph", "--useSpinWait", "--inputIOFormats",
    "--outputIOFormats", "--exportProfile", "--exportTimes", "--exportLayerInfo", "--dumpProfile", "--dumpLayerInfo",
    "--separateProfileRun", "--profilingVerbosity", "--onnx", "--saveEngine", "--workspace", "--fp16", "--int8", "--engine",
}  # fmt: skip


def texts():
    """(place, text) of every string of the packages that is no docstring; holes of f-strings are filled."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documentation = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and isinstance(node.body[0], ast.Expr)
                and isinstance(node.body[0].value, ast.Constant)
            }
            inside = {
                id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
                if part is not node
            }  # fmt: skip
            for node in ast.walk(tree):
                if id(node) in documentation | inside:
                    continue
                if isinstance(node, ast.JoinedStr):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(filled, node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def filled(part):
    if isinstance(part, ast.Constant):
        return part.value
    source = ast.unparse(part.value)
    return next((value for key, value in HOLES.items() if key in source), "VALUE")


def epilogs():
    for parser in [*leaf_parsers(all_commands()), profile_device_alone()]:
        if parser.epilog:
            yield parser.prog, parser.epilog.replace("%%", "%")


def commands_in(text):
    """What stands in backticks, at the beginning of a line, or after a colon or a semicolon."""
    for found in re.finditer(r"`((?:lightnas-edge|profile-device)\b[^`]*)`", text):
        yield found[1]
    plain = re.sub(r"`[^`]*`", "", text)
    for found in re.finditer(r"(?:^|[:;]) *((?:lightnas-edge|profile-device) [a-z][^\n;,]*)", plain, re.MULTILINE):
        yield found[1].rstrip(". ")


COMMANDS = sorted({(place, command) for place, text in [*texts(), *epilogs()] for command in commands_in(text)})


@functools.cache
def parsers():
    """Program -> its parser, and what names a command without running it. Built once: a parser takes 0.1 s."""
    commands = all_commands()
    names = {leaf.prog.removeprefix("lightnas-edge ") for leaf in leaf_parsers(commands)}
    mentions = {*names, *(name.split()[0] for name in names), ""}
    return {"lightnas-edge": (commands, mentions), "profile-device": (profile_device_alone(), mentions)}


def refusal(command):
    """What the parser says against a command; empty when it accepts it. A bare name is a mention, not a remedy."""
    program, *words = shlex.split(command.partition(" > ")[0])  # the shell's part is not ours
    words = [PLACEHOLDERS.get(word, word) for word in words]
    for index, word in enumerate(words[:-1]):
        if word in FILLED and words[index + 1] == "VALUE":
            words[index + 1] = FILLED[word]
    parser, mentions = parsers()[program]
    if " ".join(words) in mentions:
        return ""
    try:
        parser.parse_args(words)
    except SystemExit:
        return f"{command!r} is refused"
    return ""


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=[f"{place} {command}" for place, command in COMMANDS])
def test_a_printed_command_parses(place, command, capsys):
    said = refusal(command)
    assert not said, f"{place}: {said}\n{capsys.readouterr().err}"


def test_the_collector_finds_remedies_of_every_kind():
    """A collector that finds nothing would let everything pass."""
    found = {command.split()[1] if " " in command else command for _, command in COMMANDS}
    assert {"boards", "profile", "sample", "fit", "search", "train", "export", "verify", "refine", "pull"} <= found
    assert any(command.startswith("profile-device") for _, command in COMMANDS)
    assert refusal("lightnas-edge verify RUN --fresh")
    assert refusal("profile-device --rounds few")
    assert refusal("lightnas-edge frobnicate")


def test_no_text_names_an_option_that_does_not_exist():
    known = {
        option
        for parser in [*leaf_parsers(all_commands()), all_commands(), profile_device_alone()]
        for action in parser._actions
        for option in action.option_strings
    } | FOREIGN_OPTIONS
    named = [
        (place, option)
        for place, text in texts()
        for option in re.findall(r"(?<![\w-])--[a-z][A-Za-z0-9-]+", text)
        if not option.endswith("-")
        and "VALUE" not in option
        and " " in text  # a hole follows; or an argument list of a board's command
    ]
    assert [f"{place}: {option}" for place, option in named if option not in known] == []


def test_a_remedy_repeats_the_settings_of_the_measurements_to_be_joined():
    fingerprint = {"board": "virtual:jetson-nano", "precision": "fp16", "batch": 8, "threads": 2, "cuda_graph": True}
    command = sample_command(load_space("tiny").with_classes(7), fingerprint, "--adaptive").strip("`")

    arguments = all_commands().parse_args(shlex.split(command)[1:])

    assert (arguments.host, arguments.space, arguments.classes) == ("virtual:jetson-nano", "tiny", 7)
    assert (arguments.precision, arguments.batch, arguments.threads) == ("fp16", 8, 2)
    assert arguments.adaptive and arguments.cuda_graph
