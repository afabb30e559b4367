"""Boards of a farm, reserved in labgrid's coordinator: docs/fleet.md, "A board farm".

places.py          starts the holder, waits for the places, and ends both
holder.py          the process that talks to labgrid, collects the places and keeps them
reservations.py    one reservation, and the places that fit
notes.py           what this machine has reserved, so that a killed command's reservations can be cancelled
"""

from devices.farm.notes import Note, read_notes
from devices.farm.places import Holders, Place, Tags, cancel, reserved, tags_of

__all__ = ["Holders", "Note", "Place", "Tags", "cancel", "read_notes", "reserved", "tags_of"]
