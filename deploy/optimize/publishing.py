"""Has Triton serve a new version in a variant, from its first request on.

    7/model.onnx      what Triton serves
    7/float32.onnx    the graph as it was exported, where that is another one
    7/form.json       what is served, how alike it and the graph answer, or why it is the graph

The variant is built and compared before the version is published, so that one whose answers differ
never serves anyone.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import structlog

from deploy.optimize import OptimizeSettings, ServedPrecision
from deploy.optimize.parity import ParityReport
from deploy.optimize.variants import INT8, SourceVersion, build_variant, encode_json
from features.inputs import MODEL_NAME
from trainer.registry.staging import EXACT, GRAPH

SERVED_FILE = "form.json"
log = structlog.get_logger()


class ServedVariant(msgspec.Struct, frozen=True):
    """What a version is served in.

    Attributes:
        refusal: why not in INT8; None if it is.
        parity: of INT8 and the graph; None where INT8 was not run.
    """

    served: ServedPrecision
    refusal: str | None
    parity: ParityReport | None = msgspec.field(name="agreement")


def serve_int8(
    version: SourceVersion, repository: Path, settings: OptimizeSettings
) -> ServedVariant:
    """Have a staged version served in INT8 if that answers as its graph does.

    Args:
        version: still in staging.
        repository: that it will be published in.

    Raises:
        OSError: a file cannot be written; calling again is safe.
    """
    folder = version.folder
    with TemporaryDirectory(dir=folder) as name:
        staging = Path(name)
        outcome = build_variant(INT8, version, staging, repository / MODEL_NAME, settings)
        precision = ServedPrecision.INT8 if outcome.folder else ServedPrecision.FLOAT32
        served = ServedVariant(precision, outcome.refusal, outcome.parity)
        (folder / SERVED_FILE).write_bytes(encode_json(served))
        if precision is ServedPrecision.INT8:
            if version.graph.name == GRAPH:
                version.graph.rename(folder / EXACT)
            (staging / GRAPH).rename(folder / GRAPH)
    _log_outcome(version, served)
    return served


def _log_outcome(version: SourceVersion, served: ServedVariant) -> None:
    if served.refusal:
        log.warning("form_refused", version=version.number, form="int8", reason=served.refusal)
    elif parity := served.parity:
        log.info(
            "form_served",
            version=version.number,
            form=str(served.served),
            best_10_shared=round(parity.overlap, 4),
            ndcg_kept=round(parity.ndcg_ratio, 4),
        )
