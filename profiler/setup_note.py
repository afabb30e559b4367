"""The board before a campaign changed it: noted in a file before the first change, until all of it came back."""

import json
import os
from typing import Dict, List, NamedTuple, Optional

from profiler import board, clocks
from profiler.errors import SetupError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record
from profiler.processes import boot_id
from profiler.system import System

NAME = "board-setup.json"  # in the agent's home
LONGEST = 65536
TOOL_LIMIT_S = 30.0  # of nvpmodel and jetson_clocks, which take seconds
MOST_MODE = 10**6
_BY_HAND = "restore the power mode and the clocks by hand (nvpmodel, jetson_clocks, or a reboot), then delete {}"


class SetupNote(NamedTuple):
    """What must be restored. `limits`: the clocks' files below sysfs with their content before."""

    job: str
    boot_id: Optional[str]  # after another boot the clocks are as they were: only the power mode stays
    power_mode: Optional[int]  # None: not changed
    clocks: Optional[str]  # the file that jetson_clocks stored them in
    limits: Dict[str, str]

    @classmethod
    def read(cls, fields: Fields) -> "SetupNote":
        note = cls(
            job=fields.text("job"),
            boot_id=fields.optional_text("boot_id"),
            power_mode=fields.optional_whole("power_mode", 0, MOST_MODE),
            clocks=fields.optional_text("clocks"),
            limits=fields.table("limits"),
        )
        if not all(isinstance(text, str) for text in note.limits.values()):
            fields.fault("limits", "expected texts")
        fields.refuse_others()
        return note

    def to_json(self) -> JsonObject:
        return dict(self._asdict())

    def is_of_this_boot(self, system: System) -> bool:
        return self.boot_id == boot_id(system.proc)

    def not_restored(self, system: System) -> List[str]:
        """What differs from the note now, in words; empty when everything came back.

        Clocks that cannot be read do not count: a processor core may be offline.
        """
        found = []
        if self.power_mode is not None:
            mode = board.power_mode(system)
            if mode is None or mode.id != self.power_mode:
                now = "is unknown" if mode is None else "is {} ({})".format(mode.name, mode.id)
                found.append("the power mode {}, not {}".format(now, self.power_mode))
        if self.clocks is not None and self.is_of_this_boot(system):
            now_limits = clocks.limits(system.sysfs)
            for path, was in sorted(self.limits.items()):
                now = now_limits.get(path, was)
                if now != was:
                    found.append("{} is {}, not {}".format(path, now, was))
        return found

    def is_readable(self, system: System) -> bool:
        """Whether this process may read everything that `not_restored` compares."""
        return (
            self.clocks is None
            or not self.is_of_this_boot(system)
            or set(self.limits) <= set(clocks.limits(system.sysfs))
        )

    def commands(self, system: System) -> str:
        """What a user runs to restore the board by hand."""
        found = []
        if self.power_mode is not None:
            found.append("sudo nvpmodel -m {}".format(self.power_mode))
        if self.clocks is not None and self.is_of_this_boot(system):
            stored = os.path.exists(self.clocks)
            found.append("sudo jetson_clocks --restore {}".format(self.clocks) if stored else "sudo reboot")
        return "run on the board: " + "; ".join(found)


def stored_clocks(path: str) -> str:
    """The file of clocks that belongs to a note."""
    return path + ".clocks"


def read_note(path: str) -> Optional[SetupNote]:
    """The note; None when the board is as it was.

    A note that was cut off counts as none: it is complete on the disk before the first change.

    Raises:
        SetupError: it cannot be read, or is no note.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LONGEST)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise SetupError("cannot read {}: {}".format(path, err.strerror), _BY_HAND.format(path))
    try:
        value = parse(content)
    except RecordError:
        return None
    try:
        note = read_record(value, SetupNote.read)
    except RecordError as err:
        raise SetupError("{} is damaged: {}".format(path, err), _BY_HAND.format(path))
    # Root restores from this file and removes it: no other file can be meant.
    if note.clocks not in (None, stored_clocks(path)):
        raise SetupError(
            "{} names another file of clocks than {}".format(path, stored_clocks(path)), _BY_HAND.format(path)
        )
    return note


def write_note(path: str, note: SetupNote) -> None:
    """Write the note and wait until the disk has it. Raises SetupError."""
    part = path + ".part"
    try:
        with open(part, "w", encoding="ascii") as file:
            json.dump(note.to_json(), file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as err:
        raise SetupError(
            "cannot note the board's settings in {}: {}".format(path, err.strerror or err),
            "make room on the board's disk, or let root write to this folder; nothing was changed",
        )


def remove_note(path: str) -> None:
    """Remove the note and its file of clocks, also what an interrupted set-up left of them. Raises SetupError."""
    for name in (stored_clocks(path), path + ".part", path):
        try:
            os.remove(name)
        except FileNotFoundError:
            pass
        except OSError as err:
            raise SetupError("cannot remove {}: {}".format(name, err.strerror), "delete it by hand")


def restore(path: str, system: System) -> bool:
    """Restore the board from its note, as root, and read back; whether there was a note.

    Raises:
        SetupError: something did not come back, and stays noted; or the note is damaged.
    """
    note = read_note(path)
    if note is None:
        remove_note(path)
        return False
    answers = []
    if note.power_mode is not None:
        answers.append(_try(system, ["nvpmodel", "-m", str(note.power_mode)]))
    if note.clocks is not None and note.is_of_this_boot(system):
        answers.append(_try(system, ["jetson_clocks", "--restore", note.clocks]))
    differing = note.not_restored(system)
    if differing:
        answers = [answer for answer in answers if answer]
        raise SetupError(
            "the board did not come back to its settings: {}{}".format(
                ", ".join(differing), " ({})".format("; ".join(answers)) if answers else ""
            ),
            note.commands(system),
        )
    remove_note(path)
    return True


def _try(system: System, argv: List[str]) -> str:
    """Run a tool whose exit code is not reliable: what was read back counts. What it said if it failed."""
    name = " ".join(argv[:2])
    try:
        ended = system.run(argv, TOOL_LIMIT_S)
    except OSError as err:
        return "{}: {}".format(name, err.strerror)
    if ended.code is None:
        return "{} did not end within {:g} s".format(name, TOOL_LIMIT_S)
    return "" if ended.code == 0 else "{}: {}".format(name, ended.last_line or ended.code)
