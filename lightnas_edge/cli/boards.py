"""`lightnas-edge boards`: your own boards, by name."""

from __future__ import annotations

import argparse
import sys

import devices
from devices import InventoryEntry, farm
from lightnas_edge.cli._console import info, print_json, print_result, print_table, warn
from lightnas_edge.cli._leftover import restore_leftover
from lightnas_edge.cli._options import add_json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "boards", help="name your boards and pin their host keys",
        description="Boards reached over SSH, in boards.toml. The program connects only to a board with a known "
        "host key: `boards add` shows the key's fingerprint, asks, and pins it to the board's name.",
        epilog="example: lightnas-edge boards add bench-nano nvidia@192.168.55.1",
    )  # fmt: skip
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="your boards", description="List the boards of boards.toml.")
    add_json(listing)
    listing.set_defaults(run=_list)

    add = actions.add_parser(
        "add", help="name a board and pin its host key",
        epilog="compare the fingerprint with the board's own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub. "
        "example: lightnas-edge boards add bench-nano nvidia@192.168.55.1",
    )  # fmt: skip
    add.add_argument("name", metavar="NAME", help="the name for --host")
    add.add_argument("address", nargs="?", metavar="USER@HOST:PORT", help="default: that of boards.toml")
    add.add_argument("--key", metavar="FILE", help="the private key to log in with (default: as ssh does)")
    add.add_argument("--board", metavar="MODEL", help="its name in the catalogue, such as jetson-agx-xavier")
    add.add_argument(
        "--python", metavar="PATH", help="the interpreter of the agent on the board (default: its python3)"
    )
    accepted = add.add_mutually_exclusive_group()
    accepted.add_argument(
        "--fingerprint", metavar="SHA256:...", help="accept the key with this fingerprint, and no other"
    )
    accepted.add_argument("--yes", action="store_true", help="accept the key unseen; only on a network that you trust")
    add.set_defaults(run=_add)

    remove = actions.add_parser("remove", help="forget a board and its host key")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(run=_remove)

    clean = actions.add_parser(
        "clean", help="free a board's disk; measurements stay",
        description="Remove the models, inputs, agents and engines of earlier jobs from a board, and the remains of broken "
        "transfers. They are sent or built again when needed. Journals stay.",
        epilog="example: lightnas-edge boards clean bench-nano",
    )  # fmt: skip
    clean.add_argument("host", metavar="HOST")
    clean.set_defaults(run=_clean)

    release = actions.add_parser(
        "release", help="cancel reservations of --place that a killed command left",
        description="Cancel the reservations in labgrid's coordinator of commands on this machine that were killed. Without it "
        "they expire within two minutes. Those of commands that still run stay.",
    )  # fmt: skip
    release.set_defaults(run=_release)


def _list(arguments: argparse.Namespace) -> int:
    boards = devices.read_inventory()
    if arguments.json:
        print_json({"kind": "boards", "boards": [board.to_json() for board in boards.values()]})
    elif not boards:
        info(f"{devices.inventory_path()} holds no boards; `lightnas-edge boards add NAME USER@HOST` adds one")
    else:
        rows = [
            [board.name, _address(board), board.board or "", board.fingerprint or "not pinned"]
            for board in boards.values()
        ]
        print_table(["name", "address", "board", "host key"], rows)
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from devices import pinning  # brings paramiko, which takes a while to import

    board = pinning.planned_board(
        arguments.name, arguments.address, key=arguments.key, board=arguments.board, python=arguments.python
    )
    offered = pinning.offered_host_key(board)
    print_result(f"{arguments.name} ({_address(board)}): {offered.key.type} {offered.key.fingerprint}")
    if arguments.fingerprint is not None:
        if arguments.fingerprint != offered.key.fingerprint:
            raise devices.HostKeyError(
                f"{arguments.name} offers the host key {offered.key.fingerprint}, not {arguments.fingerprint}",
                hint="another machine may answer in its place, or the fingerprint is another board's; nothing was added",
            )
    else:
        offered.refuse_change()
        if offered.verdict == "known":
            info("this key is known")
        elif not arguments.yes and not _confirmed():
            return 1
    path = pinning.pin_board(board, offered.key)
    print_result(f"added to {path}")
    connection = devices.connect(arguments.name)
    print_result(f"logged in; the agent will run in {connection.python()}, in {connection.home()}")
    return 0


def _confirmed() -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise devices.HostKeyError(
            "no terminal to confirm the host key at; nothing was added",
            hint="--fingerprint SHA256:... accepts the key with that fingerprint; --yes accepts the key unseen",
        )
    info("on the board, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows its fingerprint")
    print("is it the same? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    info("nothing was added")
    return False


def _remove(arguments: argparse.Namespace) -> int:
    devices.remove_board(arguments.name)
    print_result(f"{arguments.name} and its host key are removed")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    connection = devices.connect(arguments.host)
    restore_leftover(connection)
    cleaned = devices.clean(connection)
    print_result(
        f"{arguments.host}: {cleaned.files} files removed, {cleaned.size_bytes / 1e6:.1f} MB freed; journals stay"
    )
    return 0


def _release(arguments: argparse.Namespace) -> int:
    found, code = list(farm.read_notes()), 0
    for path, note, is_held in found:
        if is_held:
            info(f"{note.wanted}: a command that runs holds it ({note.token})")
            continue
        try:
            was_there = farm.cancel(note)
        except devices.PlaceError as err:
            warn(f"{note.wanted}: not released: {err}")
            code = 1
            continue
        path.unlink(missing_ok=True)
        print_result(f"{note.wanted}: {'released' if was_there else 'had expired already'} ({note.token})")
    if not found:
        info("no command of this machine holds or left a reservation")
    return code


def _address(board: InventoryEntry) -> str:
    user = f"{board.user}@" if board.user else ""
    return f"{user}{board.host}{f':{board.port}' if board.port else ''}"
