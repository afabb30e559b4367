"""Boards of a farm, reserved in labgrid's coordinator: docs/fleet.md, "A board farm".

places.py    starts the holder, waits for the place, and ends both
holder.py    the process that talks to labgrid and keeps the reservation
notes.py     what this machine has reserved, so that a killed command's reservations can be cancelled
"""

from devices.farm.notes import Note, read_notes
from devices.farm.places import Holders, Place, cancel, reserved, tags_of

__all__ = ["Holders", "Note", "Place", "cancel", "read_notes", "reserved", "tags_of"]
