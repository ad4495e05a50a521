"""A version's other forms: each is made aside, asked what the graph is, and kept if it agrees.

    OPTIMISED/int8/temporal_llm/config.pbtxt        a model repository for Triton, one a form
    OPTIMISED/int8/temporal_llm/7/model.onnx        the form of version 7
    OPTIMISED/int8/temporal_llm/7/agreement.json    how like the graph it answers
    OPTIMISED/tensorrt/temporal_llm/7/model.plan    an engine, with model.plan.json beside it
    OPTIMISED/7.json                                what became of each form of version 7

Where a form is missing or refused, the version's own folder serves it on ONNX Runtime.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from deploy.optimize import OptimizeError
from deploy.optimize.agreement import Agreement, Answering, agreement, of_graph
from deploy.optimize.bindings import Kind, kinds
from deploy.optimize.cpu import write_int8, write_narrow
from deploy.optimize.engine import build_engine
from deploy.optimize.quantised import Calibration
from deploy.optimize.questions import Questions
from deploy.optimize.record import ENGINE, read_record
from deploy.optimize.running import RunningEngine
from deploy.optimize.served import engine_file, profile_refusals
from deploy.optimize.settings import OptimizeSettings
from features.inputs import MODEL_NAME
from features.schema import FeatureSchema
from trainer.export.onnx import ExportError
from trainer.export.triton_checks import config_refusals, graph_file
from trainer.export.triton_config import Backend, render_config
from trainer.network.ensemble import Model
from trainer.registry.drafts import CONFIG, GRAPH, exact_graph

AGREEMENT = "agreement.json"
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Version:
    """A published version, and what its forms are asked."""

    number: int
    folder: Path
    model: Model
    schema: FeatureSchema
    asked: Questions

    @property
    def graph(self) -> Path:
        """Its ONNX graph, which every form has to answer like."""
        return exact_graph(self.folder)


@dataclass(frozen=True)
class Form:
    """A way to serve a version.

    Attributes:
        make: writes its files into a folder, and gives what answers from there.
    """

    name: str
    backend: Backend
    make: Callable[[Version, Path], Answering]


@dataclass(frozen=True)
class Outcome:
    """What became of a form: a folder, or why there is none.

    Attributes:
        refusal: None where it was kept.
        agreement: None where it did not come to that.
    """

    form: str
    folder: Path | None
    refusal: str | None
    agreement: Agreement | None


def forms(settings: OptimizeSettings, into: Path) -> list[Form]:
    """Those that can be made here: INT8 on a CPU, and an engine by each TensorRT."""
    engines = [
        Form(kind.value, Backend.TENSORRT, _engine(kind, settings, into)) for kind in kinds()
    ]
    return [INT8, *engines]


def optimize(version: Version, into: Path, settings: OptimizeSettings) -> Iterator[Outcome]:
    """Make each form of a version that this machine can; what became of all is kept beside them."""
    found: list[Outcome] = []
    for form in forms(settings, into):
        found.append(_outcome(form, version, into, settings))
        _keep(found, into / f"{version.number}.json")
        yield found[-1]


def _keep(outcomes: list[Outcome], path: Path) -> None:
    """Write which forms a version has, and why it has no others and stays on ONNX Runtime."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(outcomes))


def encoded(told: object) -> bytes:
    """As JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(told, enc_hook=str), indent=2) + b"\n"


def _outcome(form: Form, version: Version, into: Path, settings: OptimizeSettings) -> Outcome:
    model = into / form.name / MODEL_NAME
    draft = into / f".{form.name}-{version.number}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        outcome = made(form, version, draft, model, settings)
        if outcome.folder is None:
            return outcome
        (draft / AGREEMENT).write_bytes(encoded(outcome.agreement))
        return replace(outcome, folder=_placed(draft, model, form, version))
    except OptimizeError as error:
        return Outcome(form.name, None, str(error), None)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def made(
    form: Form, version: Version, folder: Path, model: Path, settings: OptimizeSettings
) -> Outcome:
    """Make a form in a folder, and ask it what the graph is; whether it may answer anyone.

    Args:
        folder: empty; that of the outcome, if it may.
        model: of the repository that Triton is to serve it from.
    """
    found = None
    try:
        found = _beside_graph(form, version, folder)
        refusals = list(found.refusals(settings))
        if not refusals and (unserved := list(_unserved(version, form, folder, model))):
            refusals = [f"Triton would refuse it: {'; '.join(unserved)}"]
    except (OptimizeError, ExportError) as error:
        refusals = [str(error)]
    if refusals:
        return Outcome(form.name, None, "; ".join(refusals), found)
    return Outcome(form.name, folder, None, found)


def _beside_graph(form: Form, version: Version, folder: Path) -> Agreement:
    """Make a form, and set it beside the graph.

    Raises:
        OptimizeError, ExportError: it cannot be made, or not be asked.
    """
    if not len(version.asked.targets):
        raise OptimizeError("there is no event that it could be asked about")
    return agreement(of_graph(version.graph), form.make(version, folder), version.asked)


def _unserved(version: Version, form: Form, draft: Path, model: Path) -> Iterator[str]:
    """Why Triton would not serve a form with the configuration that is written for it."""
    if form.backend is Backend.TENSORRT:
        record = read_record(draft / ENGINE)
        yield from profile_refusals(record)
        held = engine_file(record, graph_file(version.graph))
    else:
        held = graph_file(draft / GRAPH)
    placed = replace(held, path=model / str(version.number) / held.path.name)
    yield from config_refusals(render_config(version.schema, form.backend), placed)


def _placed(draft: Path, model: Path, form: Form, version: Version) -> Path:
    """Give a draft its place, whole. A version that is there already stays: Triton may serve it."""
    folder = model / str(version.number)
    model.mkdir(parents=True, exist_ok=True)
    if not (model / CONFIG).exists():
        (model / CONFIG).write_text(render_config(version.schema, form.backend))
    if folder.exists():
        raise OptimizeError(f"{folder}: there already: remove it to make it again")
    draft.rename(folder)
    return folder


def _int8(version: Version, folder: Path) -> Answering:
    narrow = folder / "narrow.onnx"
    write_narrow(version.model, version.schema, narrow)
    write_int8(narrow, version.model.architecture.items, folder / GRAPH)
    narrow.unlink()
    return of_graph(folder / GRAPH)


INT8 = Form("int8", Backend.ONNX_RUNTIME, _int8)


def _engine(
    kind: Kind, settings: OptimizeSettings, into: Path
) -> Callable[[Version, Path], Answering]:
    def make(version: Version, folder: Path) -> Answering:
        cache = into / TIMING_CACHE
        feeds, _ = next(version.asked.batches())
        calibration = Calibration(version.model.architecture.items, feeds)
        build_engine(
            version.graph, folder / ENGINE, kind, version.schema, settings, calibration, cache
        )
        return RunningEngine(folder / ENGINE).answers

    return make
