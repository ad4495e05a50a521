"""Variants of a version: build each in staging, run it on the same requests as the graph, keep it
if the answers match.

    OPTIMISED/int8/temporal_llm/config.pbtxt        a model repository for Triton, one a variant
    OPTIMISED/int8/temporal_llm/7/model.onnx        the variant of version 7
    OPTIMISED/int8/temporal_llm/7/agreement.json    how alike it and the graph answer
    OPTIMISED/tensorrt/temporal_llm/7/model.plan    an engine, with model.plan.json beside it
    OPTIMISED/7.json                                the outcome of each variant of version 7

Where a variant is missing or refused, the version's own folder serves it on ONNX Runtime.

A new version can be served in INT8 from its first request on. The variant is built and compared
while the version is in staging, so that one whose answers differ never serves anyone:

    7/model.onnx      what Triton serves
    7/float32.onnx    the graph as it was exported, where that is another one
    7/form.json       what is served, how alike it and the graph answer, or why it is the graph
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import structlog

from deploy.optimize import OptimizeError, OptimizeSettings, ServedPrecision
from deploy.optimize.engine import EngineSpec, build_engine
from deploy.optimize.parity import InferFunction, ParityReport, load_graph, measure_parity
from deploy.optimize.precision import CalibrationSet, write_int8, write_narrow
from deploy.optimize.runtime import (
    ENGINE,
    RunningEngine,
    TensorRTPackage,
    engine_file,
    installed_packages,
    profile_refusals,
    read_record,
)
from features.inputs import MODEL_NAME
from features.schema import FeatureSchema
from trainer.evaluation import EvalRequests
from trainer.export import ExportError
from trainer.export.triton_config import Backend, config_refusals, graph_file, render_config
from trainer.network import Model
from trainer.registry import CONFIG, EXACT, GRAPH, exact_graph

PARITY_FILE = "agreement.json"
TIMING_CACHE = "timing.cache"
SERVED_FILE = "form.json"
log = structlog.get_logger()


@dataclass(frozen=True)
class SourceVersion:
    """A version that variants are built of, and the requests that they are compared on."""

    number: int
    folder: Path
    model: Model
    schema: FeatureSchema
    requests: EvalRequests

    @property
    def graph(self) -> Path:
        """Its ONNX graph, as which every variant has to answer."""
        return exact_graph(self.folder)


@dataclass(frozen=True)
class ServingVariant:
    """A way to serve a version.

    Attributes:
        build: writes the variant's files into a folder, and loads it from there.
    """

    name: str
    backend: Backend
    build: Callable[[SourceVersion, Path], InferFunction]


class VariantOutcome(msgspec.Struct, frozen=True):
    """What became of a variant: a folder, or why there is none.

    Attributes:
        refusal: None where it was kept.
        parity: None where it was not run.
    """

    variant: str = msgspec.field(name="form")
    folder: Path | None
    refusal: str | None
    parity: ParityReport | None = msgspec.field(name="agreement")


def available_variants(settings: OptimizeSettings, target: Path) -> list[ServingVariant]:
    """Those that can be built here: INT8 for CPUs, and an engine by each TensorRT."""
    engines = [
        ServingVariant(package.value, Backend.TENSORRT, _engine_builder(package, settings, target))
        for package in installed_packages()
    ]
    return [INT8, *engines]


def build_variants(
    version: SourceVersion, target: Path, settings: OptimizeSettings
) -> Iterator[VariantOutcome]:
    """Build each variant that this machine can; the outcomes of all are written to `target`."""
    outcomes: list[VariantOutcome] = []
    for variant in available_variants(settings, target):
        outcomes.append(_build_and_keep(variant, version, target, settings))
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{version.number}.json").write_bytes(encode_json(outcomes))
        yield outcomes[-1]


def encode_json(report: object) -> bytes:
    """A report as JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(report, enc_hook=str), indent=2) + b"\n"


def _build_and_keep(
    variant: ServingVariant, version: SourceVersion, target: Path, settings: OptimizeSettings
) -> VariantOutcome:
    model = target / variant.name / MODEL_NAME
    staging = target / f".{variant.name}-{version.number}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        outcome = build_variant(variant, version, staging, model, settings)
        if outcome.folder is None:
            return outcome
        (staging / PARITY_FILE).write_bytes(encode_json(outcome.parity))
        folder = _commit(staging, model, variant, version)
        return msgspec.structs.replace(outcome, folder=folder)
    except OptimizeError as error:
        return VariantOutcome(variant.name, None, str(error), None)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def build_variant(
    variant: ServingVariant,
    version: SourceVersion,
    folder: Path,
    model: Path,
    settings: OptimizeSettings,
) -> VariantOutcome:
    """Build a variant in a folder, and compare it with the graph.

    Args:
        folder: empty; that of the outcome, if the variant may serve.
        model: the model's folder in the repository that Triton will serve it from.
    """
    parity = None
    try:
        parity = _build_and_compare(variant, version, folder)
        refusals = list(parity.refusals(settings))
        if not refusals and (problems := list(_triton_refusals(version, variant, folder, model))):
            refusals = [f"Triton would refuse it: {'; '.join(problems)}"]
    except (OptimizeError, ExportError) as error:
        refusals = [str(error)]
    if refusals:
        return VariantOutcome(variant.name, None, "; ".join(refusals), parity)
    return VariantOutcome(variant.name, folder, None, parity)


def _build_and_compare(
    variant: ServingVariant, version: SourceVersion, folder: Path
) -> ParityReport:
    """Build a variant, and measure how alike it and the graph answer.

    Raises:
        OptimizeError, ExportError: it cannot be built, or not be run.
    """
    if not len(version.requests.targets):
        raise OptimizeError("there is no event that it could be asked about")
    graph, infer = load_graph(version.graph), variant.build(version, folder)
    return measure_parity(graph, infer, version.requests)


def _triton_refusals(
    version: SourceVersion, variant: ServingVariant, folder: Path, model: Path
) -> Iterator[str]:
    """Why Triton would not serve a variant with the configuration that is written for it."""
    if variant.backend is Backend.TENSORRT:
        record = read_record(folder / ENGINE)
        yield from profile_refusals(record)
        model_file = engine_file(record, graph_file(version.graph))
    else:
        model_file = graph_file(folder / GRAPH)
    placed = replace(model_file, path=model / str(version.number) / model_file.path.name)
    yield from config_refusals(render_config(version.schema, variant.backend), placed)


def _commit(staging: Path, model: Path, variant: ServingVariant, version: SourceVersion) -> Path:
    """Move a staged variant to its place, whole. One that is there stays: Triton may serve it."""
    folder = model / str(version.number)
    model.mkdir(parents=True, exist_ok=True)
    if not (model / CONFIG).exists():
        (model / CONFIG).write_text(render_config(version.schema, variant.backend))
    if folder.exists():
        raise OptimizeError(f"{folder}: there already: remove it to make it again")
    staging.rename(folder)
    return folder


def _build_int8(version: SourceVersion, folder: Path) -> InferFunction:
    narrow = folder / "narrow.onnx"
    write_narrow(version.model, version.schema, narrow)
    write_int8(narrow, version.model.architecture.items, folder / GRAPH)
    narrow.unlink()
    return load_graph(folder / GRAPH)


INT8 = ServingVariant("int8", Backend.ONNX_RUNTIME, _build_int8)


def _engine_builder(
    package: TensorRTPackage, settings: OptimizeSettings, target: Path
) -> Callable[[SourceVersion, Path], InferFunction]:
    def build(version: SourceVersion, folder: Path) -> InferFunction:
        feeds, _ = next(version.requests.batches())
        calibration = CalibrationSet(version.model.architecture.items, feeds)
        spec = EngineSpec(package, version.schema, settings, calibration, target / TIMING_CACHE)
        build_engine(version.graph, folder / ENGINE, spec)
        return RunningEngine(folder / ENGINE).answers

    return build


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
