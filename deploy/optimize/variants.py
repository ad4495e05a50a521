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

Parity: how alike a variant and the graph that it stands for answer. B requests, K top items.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import structlog

from deploy.optimize import OptimizeError, OptimizeSettings, ServedPrecision, runtime
from deploy.optimize.precision import CalibrationSet, write_int8, write_narrow
from features.inputs import MODEL_NAME, part_outputs
from features.schema import FeatureSchema, Float64Array, Int64Array
from trainer.evaluation import EvalRequests
from trainer.export import Arrays, ExportError, answers, open_session, triton_config
from trainer.export.onnx import Array
from trainer.metrics import CUTOFF, ndcg, ranks_in_lists
from trainer.network import Model
from trainer.registry import CONFIG, EXACT, GRAPH, exact_graph

InferFunction = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class ParityReport:
    """A variant beside the graph on the same requests. Field names are those of the JSON files.

    Attributes:
        overlap: of the best 10, on average; 1: the same items.
        furthest: the largest difference of the score of an item that both have among the best.
        ndcg, graph_ndcg: NDCG@10 on held-out events, without live trends.
    """

    requests: int
    overlap: float
    furthest: float
    ndcg: float
    graph_ndcg: float

    @property
    def ndcg_ratio(self) -> float:
        """The variant's NDCG@10 as a fraction of the graph's."""
        return self.ndcg / self.graph_ndcg if self.graph_ndcg else 1.0

    def refusals(self, settings: OptimizeSettings) -> Iterator[str]:
        """Why the variant may not serve anyone, a line each."""
        if not np.isfinite(self.furthest):
            yield "scores: some are no finite numbers"
        if not self.overlap >= settings.min_overlap:
            yield f"best 10: {self.overlap:.4f} shared with the graph, below {settings.min_overlap}"
        if not self.ndcg_ratio >= 1 - settings.max_loss:
            yield (
                f"NDCG@10: {self.ndcg:.4f} instead of {self.graph_ndcg:.4f}, a loss above "
                f"{settings.max_loss:.1%}"
            )


def load_graph(graph: Path, threads: int = 1) -> InferFunction:
    """A graph in ONNX Runtime, on the CPU.

    Raises:
        ExportError: it cannot be read.
    """
    session = open_session(graph, threads)
    return lambda feeds: answers(session, feeds)


def measure_parity(
    graph: InferFunction, variant: InferFunction, requests: EvalRequests
) -> ParityReport:
    """Send both the same requests, batch by batch."""
    overlaps, furthest, gains, graph_gains = [], 0.0, [], []
    for feeds, targets in requests.batches():
        expected, actual = graph(feeds), variant(feeds)
        overlaps.append(overlap(expected["top_items"], actual["top_items"]))
        furthest = max(furthest, _max_difference(expected, actual))
        gains.append(ndcg(ranks_in_lists(actual["top_items"], targets)))
        graph_gains.append(ndcg(ranks_in_lists(expected["top_items"], targets)))
    return ParityReport(
        requests=len(requests.targets),
        overlap=float(np.concatenate(overlaps).mean()),
        furthest=furthest,
        ndcg=float(np.concatenate(gains).mean()),
        graph_ndcg=float(np.concatenate(graph_gains).mean()),
    )


def overlap(expected: Int64Array, actual: Int64Array) -> Float64Array:
    """The fraction of the best 10 that two lists have in common, float64[B].

    >>> overlap(np.arange(20)[None], np.arange(2, 22)[None])
    array([0.8])
    """
    same = expected[:, :CUTOFF, None] == actual[:, None, :CUTOFF]
    shared: Float64Array = same.any(2).mean(1)
    return shared


def _max_difference(expected: Arrays, actual: Arrays) -> float:
    """The largest difference of a score; infinite where one is NaN or infinite."""
    differences = [
        _shared_item_differences(expected, actual),
        np.abs(expected["candidate_scores"] - actual["candidate_scores"]),
        np.abs(expected["trend_weights"] - actual["trend_weights"]),
    ]
    finite = all(np.isfinite(difference).all() for difference in differences)
    return max(float(each.max(initial=0)) for each in differences) if finite else float("inf")


def _shared_item_differences(expected: Arrays, actual: Arrays) -> Array:
    """Differences of the scores of items that both have among the best 10."""
    same = expected["top_items"][:, :CUTOFF, None] == actual["top_items"][:, None, :CUTOFF]
    apart = expected["top_scores"][:, :CUTOFF, None] - actual["top_scores"][:, None, :CUTOFF]
    differences: Array = np.abs(apart[same])
    return differences


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
    backend: triton_config.Backend
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
        ServingVariant(
            package.value,
            triton_config.Backend.TENSORRT,
            _engine_builder(package, settings, target),
        )
        for package in runtime.installed_packages()
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
    """Why Triton would not serve a variant with the configuration that it has, or will have."""
    if variant.backend is triton_config.Backend.TENSORRT:
        yield from runtime.profile_refusals(runtime.read_record(folder / runtime.ENGINE))
    model_file = _find_file(version, variant, folder)
    placed = replace(model_file, path=model / str(version.number) / model_file.path.name)
    yield from triton_config.config_refusals(_find_config(version, variant, folder, model), placed)


def _find_file(
    version: SourceVersion, variant: ServingVariant, folder: Path
) -> triton_config.ModelFile:
    """The file of a variant, as Triton sees it."""
    if variant.backend is triton_config.Backend.TENSORRT:
        record = runtime.read_record(folder / runtime.ENGINE)
        return runtime.engine_file(record, triton_config.graph_file(version.graph))
    return triton_config.graph_file(folder / GRAPH)


def _find_config(version: SourceVersion, variant: ServingVariant, folder: Path, model: Path) -> str:
    """The configuration of a variant's model: the one that is there, or what it is to be."""
    if (model / CONFIG).exists():
        return (model / CONFIG).read_text()
    outputs = _find_file(version, variant, folder).outputs
    has_parts = all(one.name in outputs for one in part_outputs())
    return triton_config.render_config(version.schema, variant.backend, parts=has_parts)


def _commit(staging: Path, model: Path, variant: ServingVariant, version: SourceVersion) -> Path:
    """Move a staged variant to its place, whole. One that is there stays: Triton may serve it."""
    folder = model / str(version.number)
    model.mkdir(parents=True, exist_ok=True)
    if not (model / CONFIG).exists():
        (model / CONFIG).write_text(_find_config(version, variant, staging, model))
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


INT8 = ServingVariant("int8", triton_config.Backend.ONNX_RUNTIME, _build_int8)


def _engine_builder(
    package: runtime.TensorRTPackage, settings: OptimizeSettings, target: Path
) -> Callable[[SourceVersion, Path], InferFunction]:
    def build(version: SourceVersion, folder: Path) -> InferFunction:
        feeds, _ = next(version.requests.batches())
        calibration = CalibrationSet(version.model.architecture.items, feeds)
        spec = runtime.EngineSpec(
            package, version.schema, settings, calibration, target / TIMING_CACHE
        )
        runtime.build_engine(version.graph, folder / runtime.ENGINE, spec)
        return runtime.RunningEngine(folder / runtime.ENGINE).answers

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
