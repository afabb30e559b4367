"""The layers of one model, from our agent or from files of trtexec, as one record with its findings."""

from lightnas_edge.profiles.agent import profile_record
from lightnas_edge.profiles.combine import import_trtexec
from lightnas_edge.profiles.findings import find
from lightnas_edge.profiles.trtexec import is_trtexec, read_trtexec

__all__ = ["find", "import_trtexec", "is_trtexec", "profile_record", "read_trtexec"]
