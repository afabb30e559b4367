"""Engines on a board's disk, each with metadata of its build; one built elsewhere is never loaded: an engine is code."""

import hashlib
import json
import os
from typing import Callable, NamedTuple, Optional

from profiler.errors import MeasureError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record

KEPT_BYTES = 2 * 2**30  # all engines on the board's card; the least recently used are deleted first
LARGEST_METADATA = 2**20  # bytes
REBUILD = "delete it: it is built again from its model"


class EngineMetadata(NamedTuple):
    """Where, from what and how an engine was built. Every field but the last must agree before it is loaded."""

    model_sha256: str
    engine_sha256: str
    tensorrt: str
    device: str
    compute_capability: str
    cuda_runtime: Optional[str]
    l4t: Optional[str]
    power_mode: Optional[str]  # kernels are chosen by their speed at the clocks of the build
    clocks: Optional[str]
    settings: JsonObject
    workspace_share: float = 1.0  # of the workspace in `settings`; less after a build that found no memory

    @classmethod
    def read(cls, fields: Fields) -> "EngineMetadata":
        fields.choice("kind", ("engine",))
        fields.whole("schema", 1, 1)
        return cls(
            model_sha256=fields.text("model_sha256"),
            engine_sha256=fields.text("engine_sha256"),
            tensorrt=fields.text("tensorrt"),
            device=fields.text("device"),
            compute_capability=fields.text("compute_capability"),
            cuda_runtime=fields.optional_text("cuda_runtime"),
            l4t=fields.optional_text("l4t"),
            power_mode=fields.optional_text("power_mode"),
            clocks=fields.optional_text("clocks"),
            settings=fields.table("settings"),
            workspace_share=fields.number("workspace_share", 0),
        )

    def to_json(self) -> JsonObject:
        record: JsonObject = {"kind": "engine", "schema": 1}
        record.update(self._asdict())
        return record


class EngineCache:
    """The engines of one version of TensorRT on one kind of GPU.

    Args:
        folder: is made if it is missing, readable by its owner alone.
        suffix: of the files' names, for what keeps engines apart besides the model.
        here: what an engine must have been built with; its hashes are ignored.
        progress: called with one line about what could not be kept.
    """

    def __init__(self, folder: str, suffix: str, here: EngineMetadata, progress: Callable[[str], None]) -> None:
        self.folder = folder
        self._suffix = suffix
        self._here = here
        self._progress = progress
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def path(self, model_sha256: str) -> str:
        return os.path.join(self.folder, "{}-{}.engine".format(model_sha256[:32], self._suffix))

    def read(self, path: str, model_sha256: Optional[str] = None) -> bytes:
        """An engine that was built here, checked against its metadata.

        Raises:
            MeasureError: code `load`: it has no metadata, was built elsewhere or otherwise, or is damaged.
        """
        try:
            with open(path + ".json", "rb") as file:
                metadata = read_record(parse(file.read(LARGEST_METADATA)), EngineMetadata.read)
            with open(path, "rb") as file:
                plan = file.read()
        except (OSError, RecordError) as err:
            raise MeasureError("load", "the engine {} has no metadata: {}".format(path, err), REBUILD)
        here = self._describe(plan, model_sha256 or metadata.model_sha256, metadata.workspace_share)
        different = [
            "{} (file: {!r}, here: {!r})".format(field, recorded, present)
            for field, recorded, present in sorted(zip(here._fields, metadata, here), key=lambda row: row[0])
            if recorded != present
        ]
        if different:
            raise MeasureError(
                "load", "the engine {} was not built here: {}".format(path, ", ".join(different)), REBUILD
            )
        os.utime(path)  # the latest use counts
        return plan

    def find(self, model_sha256: str) -> Optional[bytes]:
        """The engine of a model; None where there is none, or none that may be loaded."""
        path = self.path(model_sha256)
        try:
            return self.read(path, model_sha256)
        except MeasureError as err:
            if os.path.exists(path):
                self._progress("building again: " + err.message)
            return None

    def keep(self, model_sha256: str, plan: bytes, workspace_share: float = 1.0) -> None:
        """Keep an engine and its metadata on the card. Without room for them, the engine still works."""
        path = self.path(model_sha256)
        metadata = self._describe(plan, model_sha256, workspace_share)
        try:
            self._make_room(len(plan))
            replace(path, plan)
            replace(path + ".json", json.dumps(metadata.to_json(), indent=1, sort_keys=True).encode("ascii"))
        except OSError as err:
            self._progress("the engine is not kept: {}".format(err))

    def discard(self, model_sha256: str) -> None:
        """Delete the engine of a model."""
        _delete(self.path(model_sha256))

    def _describe(self, plan: bytes, model_sha256: str, workspace_share: float) -> EngineMetadata:
        return self._here._replace(
            model_sha256=model_sha256,
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            workspace_share=workspace_share,
        )

    def _make_room(self, size: int) -> None:
        paths = [os.path.join(self.folder, name) for name in os.listdir(self.folder) if name.endswith(".engine")]
        paths.sort(key=os.path.getmtime)
        total = sum(map(os.path.getsize, paths))
        while paths and total + size > KEPT_BYTES:
            oldest = paths.pop(0)
            total -= os.path.getsize(oldest)
            _delete(oldest)


def _delete(path: str) -> None:
    for name in (path, path + ".json"):
        if os.path.exists(name):
            os.remove(name)


def replace(path: str, content: bytes) -> None:
    """Write a file whole or not at all; for this user only, because an engine is code."""
    part = path + ".part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
