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
from deploy.optimize.agreement import Agreement, Answering, agreement
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
from features.rows import Layout
from trainer.drafts import CONFIG, GRAPH
from trainer.ensemble import Model
from trainer.export import answers, open_session
from trainer.triton_checks import config_refusals, graph_file
from trainer.triton_config import Backend, render_config

AGREEMENT = "agreement.json"
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Version:
    """A published version, and what its forms are asked."""

    number: int
    folder: Path
    model: Model
    layout: Layout
    asked: Questions

    @property
    def graph(self) -> Path:
        """Its ONNX graph, which every form has to answer like."""
        return self.folder / GRAPH


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
    return [Form("int8", Backend.ONNX_RUNTIME, _int8), *engines]


def optimize(version: Version, into: Path, settings: OptimizeSettings) -> Iterator[Outcome]:
    """Make each form of a version that this machine can; what became of all is kept beside them."""
    found: list[Outcome] = []
    for form in forms(settings, into):
        found.append(_outcome(form, version, into, settings))
        _keep(found, into / f"{version.number}.json")
        yield found[-1]


def _keep(outcomes: list[Outcome], path: Path) -> None:
    """Write which forms a version has, and why it has no others and stays on ONNX Runtime."""
    encoded = msgspec.json.encode(outcomes, enc_hook=str)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")


def _outcome(form: Form, version: Version, into: Path, settings: OptimizeSettings) -> Outcome:
    model = into / form.name / MODEL_NAME
    draft = into / f".{form.name}-{version.number}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    found = None
    try:
        session = open_session(version.graph)
        answering = form.make(version, draft)
        found = agreement(lambda feeds: answers(session, feeds), answering, version.asked)
        if refusals := list(found.refusals(settings)):
            return Outcome(form.name, None, "; ".join(refusals), found)
        if refusals := list(_unserved(version, form, draft, model)):
            return Outcome(form.name, None, f"Triton would refuse it: {'; '.join(refusals)}", found)
        (draft / AGREEMENT).write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        return Outcome(form.name, _placed(draft, model, form, version), None, found)
    except OptimizeError as error:
        return Outcome(form.name, None, str(error), found)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unserved(version: Version, form: Form, draft: Path, model: Path) -> Iterator[str]:
    """Why Triton would not serve a form with the configuration that is written for it."""
    if form.backend is Backend.TENSORRT:
        record = read_record(draft / ENGINE)
        yield from profile_refusals(record)
        held = engine_file(record, graph_file(version.graph))
    else:
        held = graph_file(draft / GRAPH)
    placed = replace(held, path=model / str(version.number) / held.path.name)
    yield from config_refusals(render_config(version.layout, form.backend), placed)


def _placed(draft: Path, model: Path, form: Form, version: Version) -> Path:
    """Give a draft its place, whole. A version that is there already stays: Triton may serve it."""
    folder = model / str(version.number)
    model.mkdir(parents=True, exist_ok=True)
    if not (model / CONFIG).exists():
        (model / CONFIG).write_text(render_config(version.layout, form.backend))
    if folder.exists():
        raise OptimizeError(f"{folder}: there already: remove it to make it again")
    draft.rename(folder)
    return folder


def _int8(version: Version, folder: Path) -> Answering:
    narrow = folder / "narrow.onnx"
    write_narrow(version.model, version.layout, narrow)
    write_int8(narrow, version.model.architecture.items, folder / GRAPH)
    narrow.unlink()
    session = open_session(folder / GRAPH)
    return lambda feeds: answers(session, feeds)


def _engine(
    kind: Kind, settings: OptimizeSettings, into: Path
) -> Callable[[Version, Path], Answering]:
    def make(version: Version, folder: Path) -> Answering:
        cache = into / TIMING_CACHE
        feeds, _ = next(version.asked.batches())
        calibration = Calibration(version.model.architecture.items, feeds)
        build_engine(
            version.graph, folder / ENGINE, kind, version.layout, settings, calibration, cache
        )
        return RunningEngine(folder / ENGINE).answers

    return make
