"""An engine from a version's graph: one build step for TensorRT and TensorRT-RTX.

Built on the machine that serves it, from the ONNX in the version folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import torch

from deploy.optimize import BuildError
from deploy.optimize.bindings import Kind, bindings, forgotten
from deploy.optimize.products import with_products_in
from deploy.optimize.profile import Profile, profiles
from deploy.optimize.quantised import Calibration, with_explicit_int8
from deploy.optimize.record import EngineRecord, write_record
from deploy.optimize.settings import OptimizeSettings, Products
from features.schema import FeatureSchema
from trainer.disk import sha256

_BYTES_OF_MB = 1 << 20


@dataclass(frozen=True)
class _Build:
    """TensorRT, what it is told of errors with, and what is being built."""

    kind: Kind
    module: ModuleType
    logger: Any
    builder: Any

    @classmethod
    def of(cls, kind: Kind) -> _Build:
        module, logger = bindings(kind), forgotten(kind)
        return cls(kind, module, logger, module.Builder(logger))

    def network(self, graph: Path, settings: OptimizeSettings, calibration: Calibration) -> Any:
        """The graph as TensorRT reads it, every tensor of the type that the graph gives it."""
        typed = 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self.builder.create_network(typed)
        parser = self.module.OnnxParser(network, self.logger)
        if not parser.parse(in_precision(graph, settings, calibration).SerializeToString()):
            told = "; ".join(_told(parser.get_error(at)) for at in range(parser.num_errors))
            raise BuildError(f"{graph}: {self.kind} does not support {told}")
        return network

    def config(self, shapes: Mapping[str, Profile], settings: OptimizeSettings) -> Any:
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(
            self.module.MemoryPoolType.WORKSPACE, settings.workspace_mb * _BYTES_OF_MB
        )
        profile = self.builder.create_optimization_profile()
        for name, one in shapes.items():
            profile.set_shape(name, one.smallest, one.usual, one.largest)
        config.add_optimization_profile(profile)
        return config

    def timed(self, config: Any, cache: Path) -> None:
        """Give the builder what earlier builds have measured."""
        known = cache.read_bytes() if cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)

    def serialized(self, network: Any, config: Any) -> Any:
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            why = self.logger.last_error or "it does not say why"
            raise BuildError(f"{self.kind} builds no engine: {why}")
        return engine


def build_engine(
    graph: Path,
    engine: Path,
    kind: Kind,
    schema: FeatureSchema,
    settings: OptimizeSettings,
    calibration: Calibration,
    timing_cache: Path | None = None,
) -> EngineRecord:
    """Build an engine of a graph, and write it with its record.

    Args:
        calibration: for products in INT8.
        timing_cache: what was measured at an earlier build is read from here, and what is measured
            now is added, so that the next build of a like graph takes less time.

    Raises:
        NotHereError: this TensorRT is not installed.
        BuildError: naming what of the graph it does not support, or why there is no engine.
    """
    started = time.perf_counter()
    build, shapes = _Build.of(kind), profiles(schema, settings)
    network, config = build.network(graph, settings, calibration), build.config(shapes, settings)
    # TensorRT-RTX measures at run time instead.
    timing_cache = timing_cache if kind is Kind.TENSORRT else None
    if timing_cache:
        build.timed(config, timing_cache)
    engine.write_bytes(build.serialized(network, config))
    if timing_cache:
        timing_cache.write_bytes(config.get_timing_cache().serialize())
    record = EngineRecord(
        kind=kind.value,
        version=build.module.__version__,
        **_gpu(),
        graph_sha256=sha256(graph),
        engine_sha256=sha256(engine),
        products=settings.products.value,
        inputs={name: (one.smallest, one.usual, one.largest) for name, one in shapes.items()},
        outputs={
            tensor.name: tuple(tensor.shape)
            for tensor in map(network.get_output, range(network.num_outputs))
        },
        seconds=time.perf_counter() - started,
    )
    write_record(record, engine)
    return record


def in_precision(
    graph: Path, settings: OptimizeSettings, calibration: Calibration
) -> onnx.ModelProto:
    """The graph that an engine is made of."""
    int8 = settings.products is Products.INT8
    whole = with_explicit_int8(graph, calibration) if int8 else onnx.load(graph)
    return with_products_in(whole, settings.products)


def _told(error: Any) -> str:
    """What an error of the parser is about, in a line; it does not always say which node it is."""
    about = " ".join(filter(None, (error.node_operator(), error.node_name()))) or error.func()
    return " ".join(f"{about}: {error.desc()}".split())


def _gpu() -> dict[str, str | None]:
    """The GPU that engines built here are for."""
    if not torch.cuda.is_available():
        return {"gpu": None, "compute_capability": None}
    major, minor = torch.cuda.get_device_capability()
    return {"gpu": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}
