"""Lets Triton serve a new version in another form, from the first request on.

    7/model.onnx      what Triton serves
    7/float32.onnx    the graph as it was exported, where that is another one
    7/form.json       which form is served, how like the graph it answers, or why it is the graph

It is made and asked before the version is whole: a form that does not answer as the graph does is
never seen by anyone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from deploy.optimize.agreement import Agreement
from deploy.optimize.forms import INT8, Version, encoded, made
from deploy.optimize.settings import OptimizeSettings, Served
from features.inputs import MODEL_NAME
from trainer.registry.drafts import EXACT, GRAPH

FORM = "form.json"
log = structlog.get_logger()


@dataclass(frozen=True)
class ServedForm:
    """What a version is served in.

    Attributes:
        refusal: why not in INT8; None if it is.
        agreement: how like the graph INT8 answers; None where it did not come to that.
    """

    served: Served
    refusal: str | None
    agreement: Agreement | None


def serve_int8(version: Version, repository: Path, settings: OptimizeSettings) -> ServedForm:
    """Have a draft served in INT8, if that answers as its graph does; else it stays as it is.

    Args:
        version: not kept yet.
        repository: that it is to be kept in.

    Raises:
        OSError: a file cannot be written; it can be called again.
    """
    folder = version.folder
    with TemporaryDirectory(dir=folder) as name:
        aside = Path(name)
        outcome = made(INT8, version, aside, repository / MODEL_NAME, settings)
        served = Served.INT8 if outcome.folder else Served.FLOAT32
        form = ServedForm(served, outcome.refusal, outcome.agreement)
        (folder / FORM).write_bytes(encoded(form))
        if served is Served.INT8:
            if version.graph.name == GRAPH:
                version.graph.rename(folder / EXACT)
            (aside / GRAPH).rename(folder / GRAPH)
    _tell(version, form)
    return form


def _tell(version: Version, form: ServedForm) -> None:
    if form.refusal:
        log.warning("form_refused", version=version.number, form="int8", reason=form.refusal)
    elif found := form.agreement:
        log.info(
            "form_served",
            version=version.number,
            form=str(form.served),
            best_10_shared=round(found.overlap, 4),
            ndcg_kept=round(found.kept, 4),
        )
