"""What an engine is, in a JSON file beside it: else nobody could tell where it runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
from headwater_client.errors import DataError

from deploy.optimize.profile import Shape

ENGINE = "model.plan"
SUFFIX = ".json"


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was built of, by, and for.

    Attributes:
        kind: the package that built it, and can run it: `tensorrt` or `tensorrt_rtx`.
        gpu: the name of the GPU that it was built for; None: built without one, for any that the
            package knows.
        compute_capability: of that GPU.
        graph_sha256: of the ONNX graph that it answers as.
        engine_sha256: of the engine itself.
        products: what it multiplies matrices in.
        inputs: of each input the smallest, the usual and the largest shape.
        outputs: of each output the shape, -1 for what varies.
        seconds: how long it took to build.
    """

    kind: str
    version: str
    gpu: str | None
    compute_capability: str | None
    graph_sha256: str
    engine_sha256: str
    products: str
    inputs: dict[str, tuple[Shape, Shape, Shape]]
    outputs: dict[str, Shape]
    seconds: float


def write_record(record: EngineRecord, engine: Path) -> None:
    """Write it beside its engine."""
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    record_path(engine).write_bytes(text + b"\n")


def read_record(engine: Path) -> EngineRecord:
    """The record of an engine.

    Raises:
        DataError: there is none, or it is no record.
    """
    path = record_path(engine)
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: no record of an engine: {error}: build it again") from error


def record_path(engine: Path) -> Path:
    """Where the record of an engine lies."""
    return engine.with_name(engine.name + SUFFIX)
