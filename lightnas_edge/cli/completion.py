"""`lightnas-edge completion`: commands and options at the press of the tab key."""

from __future__ import annotations

import argparse

import shtab

from lightnas_edge.cli._console import print_result


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "completion", help="complete commands and options in your shell",
        description="Print a script with which your shell completes commands and options when you press the tab key.",
        epilog='examples: eval "$(lightnas-edge completion bash)" in ~/.bashrc; '
        "lightnas-edge completion zsh > ~/.zfunc/_lightnas-edge, a folder of your fpath",
    )  # fmt: skip
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    parser.add_argument(
        "--program", choices=("lightnas-edge", "profile-device"), default="lightnas-edge", help="default: lightnas-edge"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.cli import all_commands, profile_device_alone

    parser = all_commands() if arguments.program == "lightnas-edge" else profile_device_alone()
    print_result(shtab.complete(parser, arguments.shell))
    return 0
