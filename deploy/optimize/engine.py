"""Builds a TensorRT engine from a version's graph, with TensorRT or TensorRT-RTX.

It is built on the machine that serves it, from the ONNX in the version folder.
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

from deploy.optimize import BuildError, MatmulPrecision, OptimizeSettings
from deploy.optimize.precision import CalibrationSet, with_explicit_int8, with_products_in
from deploy.optimize.runtime import (
    EngineRecord,
    ShapeProfile,
    TensorRTPackage,
    load_package,
    reset_logger,
    shape_profiles,
    write_record,
)
from features.schema import FeatureSchema
from trainer.disk import sha256

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
    def create(cls, package: TensorRTPackage) -> _EngineBuilder:
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
