"""The first hour on a board: every path that needs a real one, and one archive that its owner may share."""

from lightnas_edge.field_test.archive import unpack
from lightnas_edge.field_test.plan import Plan
from lightnas_edge.field_test.records import FieldTestError, FieldTestRecord, Snapshot, StepRecord
from lightnas_edge.field_test.run import FieldTest, Listener, estimated_s, run_field_test

__all__ = [
    "FieldTest",
    "FieldTestError",
    "FieldTestRecord",
    "Listener",
    "Plan",
    "Snapshot",
    "StepRecord",
    "estimated_s",
    "run_field_test",
    "unpack",
]
