"""TensorRT engines: what one is built for, the installed package, and running one on this GPU.

A JSON file beside an engine says for which shapes, GPU and package it was built.

Either the full TensorRT or TensorRT-RTX, which has the same Python API. Triton's backend runs
engines of the full one; TensorRT-RTX builds without a GPU. An engine's tensors are torch's.

An engine is built on the machine that serves it, from the ONNX in the version folder.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import onnx
import structlog
import torch
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import DataError

from deploy.optimize import BuildError, EngineUnavailableError, MatmulPrecision, OptimizeSettings
from deploy.optimize.precision import CalibrationSet, with_explicit_int8, with_products_in
from features.inputs import Tensor, model_inputs
from features.schema import FeatureSchema
from trainer.disk import sha256
from trainer.export import Arrays
from trainer.export.onnx import LENGTHS
from trainer.export.triton_config import MAX_BATCH, VARIES, ModelFile, ModelTensor

Tensors = dict[str, torch.Tensor]
log = structlog.get_logger()
ENGINE = "model.plan"
SUFFIX = ".json"

Shape = tuple[int, ...]
# Few requests have more.
_USUAL_CANDIDATES, _USUAL_EXCLUDED = 64, 128


@dataclass(frozen=True)
class ShapeProfile:
    """The shapes of one input."""

    smallest: Shape
    usual: Shape
    largest: Shape

    def accepts(self, shape: Shape) -> bool:
        """Whether the engine takes a tensor of this shape."""
        bounds = zip(self.smallest, shape, self.largest, strict=True)
        return all(low <= length <= high for low, length, high in bounds)


def shape_profiles(schema: FeatureSchema, settings: OptimizeSettings) -> dict[str, ShapeProfile]:
    """The profile of each input by its name, for every batch from 1 to `MAX_BATCH`."""
    history = schema.settings.history_length
    lengths = {
        "history": (1, history, history),
        "candidates": (0, min(_USUAL_CANDIDATES, settings.max_candidates), settings.max_candidates),
        "excluded": (0, min(_USUAL_EXCLUDED, settings.max_excluded), settings.max_excluded),
    }
    return {tensor.name: _profile(tensor, lengths, settings) for tensor in model_inputs(schema)}


def _profile(
    tensor: Tensor, lengths: dict[str, tuple[int, int, int]], settings: OptimizeSettings
) -> ShapeProfile:
    low, usual, high = (
        lengths[LENGTHS[tensor.name]] if -1 in tensor.shape else tensor.shape * 3  # (F,) thrice
    )
    return ShapeProfile((1, low), (settings.batch, usual), (MAX_BATCH, high))


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was built from, by which package, and for which GPU and shapes.

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
        return read_json(path.read_bytes(), EngineRecord)
    except (OSError, DocumentError) as error:
        raise DataError(f"{path}: no record of an engine: {error}: build it again") from error


def record_path(engine: Path) -> Path:
    """The path of an engine's record."""
    return engine.with_name(engine.name + SUFFIX)


def engine_file(record: EngineRecord, graph: ModelFile) -> ModelFile:
    """The inputs and outputs of an engine, as Triton's TensorRT backend sees them.

    Args:
        graph: what it was built of: the types are the graph's.
    """
    shapes = {name: _engine_dims(*shapes) for name, shapes in record.inputs.items()}
    return ModelFile(
        Path(ENGINE), _reshape(graph.inputs, shapes), _reshape(graph.outputs, record.outputs)
    )


def profile_refusals(record: EngineRecord) -> Iterator[str]:
    """Batches that Triton may send and the engine does not take, a line for each input."""
    for name, (smallest, _, largest) in record.inputs.items():
        if smallest[0] > 1 or largest[0] < MAX_BATCH:
            yield (
                f"input {name}: built for batches of {smallest[0]} to {largest[0]}, max_batch_size "
                f"is {MAX_BATCH}"
            )


def _engine_dims(smallest: Shape, _: Shape, largest: Shape) -> Shape:
    return tuple(
        low if low == high else VARIES for low, high in zip(smallest, largest, strict=True)
    )


def _reshape(
    tensors: Mapping[str, ModelTensor], shapes: Mapping[str, Shape]
) -> dict[str, ModelTensor]:
    """The tensors in these shapes; one without a type is none of the graph's."""
    return {name: replace(tensors[name], dims=tuple(dims)) for name, dims in shapes.items()}


class TensorRTPackage(StrEnum):
    """The two packages, by the names that they are imported by."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


def installed_packages() -> list[TensorRTPackage]:
    """Those that are installed, the full one first."""
    return [package for package in TensorRTPackage if _import_if_installed(package)]


def load_package(package: TensorRTPackage) -> ModuleType:
    """The package.

    Raises:
        NotHereError: it is not installed.
    """
    module = _import_if_installed(package)
    if module is None:
        raise EngineUnavailableError(
            f"{package} is not installed: install NVIDIA's package for this machine's CUDA, or "
            "leave the version on ONNX Runtime"
        )
    return module


@cache
def logger(package: TensorRTPackage) -> Any:
    """TensorRT's logger into ours; one a process, as it wants."""
    module = load_package(package)

    class Logger(module.ILogger):  # type: ignore[name-defined, misc]
        """Keeps the newest error: the calls themselves return nothing but None."""

        last_error = ""

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity <= module.ILogger.Severity.ERROR:
                self.last_error = line
                log.debug("tensorrt_error", kind=package.value, message=line)

    return Logger()


def reset_logger(package: TensorRTPackage) -> Any:
    """The logger, with no error in it."""
    emptied = logger(package)
    emptied.last_error = ""
    return emptied


@cache
def _import_if_installed(package: TensorRTPackage) -> ModuleType | None:
    try:
        return import_module(package.value)
    except (ImportError, OSError):
        # OSError: the package is there, a library of CUDA that it needs is not.
        return None


class RunningEngine:
    """An engine that was loaded; one call at a time."""

    def __init__(self, engine: Path) -> None:
        """Load an engine.

        Raises:
            DataError: it has no record.
            NotHereError: it was built by another TensorRT, for another GPU, or it does not fit.
        """
        self.record = read_record(engine)
        package = _check_record(self.record, engine)
        self._module, self._logger = load_package(package), reset_logger(package)
        self._runtime = self._module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise EngineUnavailableError(f"{engine}: {package} does not load it: {self._reason()}")
        indices = range(self._engine.num_io_tensors)
        names = [self._engine.get_tensor_name(index) for index in indices]
        # Of a tensor without elements torch gives no address, and TensorRT wants one.
        self._nowhere = torch.empty(1, dtype=torch.int64, device="cuda")
        self._outputs = [name for name in names if name in self.record.outputs]

    def run(self, feeds: Tensors) -> Tensors:
        """Begin to answer, on torch's current stream; the outputs by name.

        Args:
            feeds: on the GPU, and kept until it has answered.

        Raises:
            NotHereError: the engine does not take such lengths, or the GPU cannot run it.
        """
        outputs = self._bind(feeds)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineUnavailableError(
                f"{self.record.kind} does not run its engine: {self._reason()}"
            )
        return outputs

    def answers(self, feeds: Arrays) -> Arrays:
        """The outputs by name, from and to the host's memory."""
        on_gpu = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
        return {name: tensor.cpu().numpy() for name, tensor in self.run(on_gpu).items()}

    def _bind(self, feeds: Tensors) -> Tensors:
        """Give the engine the addresses of its inputs and outputs; the outputs by name."""
        for name, tensor in feeds.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineUnavailableError(
                    f"{name}: {list(tensor.shape)} is outside what the engine was built for, "
                    f"{self.record.inputs[name]}: build it with larger limits"
                )
        self._context.infer_shapes()
        outputs = {name: self._output(name) for name in self._outputs}
        for name, tensor in (feeds | outputs).items():
            address = tensor.data_ptr() or self._nowhere.data_ptr()
            self._context.set_tensor_address(name, address)
        return outputs

    def _output(self, name: str) -> torch.Tensor:
        dtype = self._engine.get_tensor_dtype(name)
        types = {self._module.int64: torch.int64, self._module.float32: torch.float32}
        shape = tuple(self._context.get_tensor_shape(name))
        return torch.empty(shape, dtype=types[dtype], device="cuda")

    def _reason(self) -> Any:
        return self._logger.last_error or "it does not say why"


def _check_record(record: EngineRecord, engine: Path) -> TensorRTPackage:
    """The package that can run an engine.

    Raises:
        EngineUnavailableError: not on this machine.
    """
    package = TensorRTPackage(record.kind)
    installed = load_package(package).__version__
    if installed != record.version:
        raise EngineUnavailableError(
            f"{engine}: built by {package} {record.version}, here is {installed}: build it again"
        )
    if not torch.cuda.is_available():
        raise EngineUnavailableError(f"{engine.name}: runs on a GPU, and there is no GPU here")
    name = torch.cuda.get_device_name()
    if record.gpu not in (None, name):
        raise EngineUnavailableError(
            f"{engine}: built for {record.gpu}, here is {name}: build it again"
        )
    if sha256(engine) != record.engine_sha256:
        raise EngineUnavailableError(f"{engine}: damaged, its checksum differs: build it again")
    return package


_BYTES_OF_MB = 1 << 20


@dataclass(frozen=True)
class EngineSpec:
    """How an engine is built.

    Attributes:
        calibration: for products in INT8.
        timing_cache: measurements of earlier builds are read from here, and those of this one are
            added, so that the next build of a similar graph takes less time.
    """

    package: TensorRTPackage
    schema: FeatureSchema
    settings: OptimizeSettings
    calibration: CalibrationSet
    timing_cache: Path | None = None


@dataclass(frozen=True)
class _EngineBuilder:
    """TensorRT's builder, and the logger that keeps its errors."""

    package: TensorRTPackage
    module: ModuleType
    logger: Any
    builder: Any

    @classmethod
    def create(cls, package: TensorRTPackage) -> "_EngineBuilder":
        module, logger = load_package(package), reset_logger(package)
        return cls(package, module, logger, module.Builder(logger))

    def parse(self, graph: Path, spec: EngineSpec) -> Any:
        """The graph as TensorRT reads it, every tensor of the type that the graph gives it."""
        typed = 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self.builder.create_network(typed)
        parser = self.module.OnnxParser(network, self.logger)
        model = convert_precision(graph, spec.settings, spec.calibration)
        if not parser.parse(model.SerializeToString()):
            errors = (_describe_error(parser.get_error(n)) for n in range(parser.num_errors))
            raise BuildError(f"{graph}: {self.package} does not support {'; '.join(errors)}")
        return network

    def config(self, profiles: Mapping[str, ShapeProfile], settings: OptimizeSettings) -> Any:
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(
            self.module.MemoryPoolType.WORKSPACE, settings.workspace_mb * _BYTES_OF_MB
        )
        profile = self.builder.create_optimization_profile()
        for name, shapes in profiles.items():
            profile.set_shape(name, shapes.smallest, shapes.usual, shapes.largest)
        config.add_optimization_profile(profile)
        return config

    def load_timing_cache(self, config: Any, cache: Path) -> None:
        """Give the builder the measurements of earlier builds."""
        stored = cache.read_bytes() if cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)

    def serialize(self, network: Any, config: Any) -> Any:
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            reason = self.logger.last_error or "it does not say why"
            raise BuildError(f"{self.package} builds no engine: {reason}")
        return engine


def build_engine(graph: Path, engine: Path, spec: EngineSpec) -> EngineRecord:
    """Build an engine of a graph, and write it with its record.

    Raises:
        EngineUnavailableError: this TensorRT is not installed.
        BuildError: naming what of the graph it does not support, or why there is no engine.
    """
    started, settings = time.perf_counter(), spec.settings
    builder, profiles = _EngineBuilder.create(spec.package), shape_profiles(spec.schema, settings)
    network, config = builder.parse(graph, spec), builder.config(profiles, settings)
    # TensorRT-RTX measures at run time instead.
    timing_cache = spec.timing_cache if spec.package is TensorRTPackage.TENSORRT else None
    if timing_cache:
        builder.load_timing_cache(config, timing_cache)
    engine.write_bytes(builder.serialize(network, config))
    if timing_cache:
        timing_cache.write_bytes(config.get_timing_cache().serialize())
    record = EngineRecord(
        kind=spec.package.value,
        version=builder.module.__version__,
        **_gpu(),
        graph_sha256=sha256(graph),
        engine_sha256=sha256(engine),
        products=settings.products.value,
        inputs={name: (p.smallest, p.usual, p.largest) for name, p in profiles.items()},
        outputs={
            tensor.name: tuple(tensor.shape)
            for tensor in map(network.get_output, range(network.num_outputs))
        },
        seconds=time.perf_counter() - started,
    )
    write_record(record, engine)
    return record


def convert_precision(
    graph: Path, settings: OptimizeSettings, calibration: CalibrationSet
) -> onnx.ModelProto:
    """The graph that an engine is built from."""
    int8 = settings.products is MatmulPrecision.INT8
    model = with_explicit_int8(graph, calibration) if int8 else onnx.load(graph)
    return with_products_in(model, settings.products)


def _describe_error(error: Any) -> str:
    """What an error of the parser is about, in a line; it does not always say which node it is."""
    about = " ".join(filter(None, (error.node_operator(), error.node_name()))) or error.func()
    return " ".join(f"{about}: {error.desc()}".split())


def _gpu() -> dict[str, str | None]:
    """The GPU that engines built here are for."""
    if not torch.cuda.is_available():
        return {"gpu": None, "compute_capability": None}
    major, minor = torch.cuda.get_device_capability()
    return {"gpu": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}
