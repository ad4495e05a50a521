"""Engines of a graph by whatever TensorRT is here; built without a GPU, they are not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.model.progress import Progress
from deploy.optimize.engine import EngineSpec, build_engine
from deploy.optimize.precision import CalibrationSet
from deploy.optimize.runtime import installed_packages
from deploy.optimize.settings import MatmulPrecision, OptimizeSettings
from features.schema import FeatureSchema


def build_all(
    progress: Progress,
    graph: Path,
    schema: FeatureSchema,
    calibration: CalibrationSet,
    folder: Path,
) -> Iterator[Path]:
    """An engine of the graph by each TensorRT in each precision, where one can be built."""
    found = progress.figures.setdefault("tensorrt", {"built": False, "engines": {}})
    for kind in installed_packages():
        for products in MatmulPrecision:
            name = f"{kind}, {products}"
            engine = folder / f"{graph.stem}-{kind}-{products}.plan"
            with progress.part(f"build {name}"):
                settings = OptimizeSettings(products=products)
                record = build_engine(
                    graph, engine, EngineSpec(kind, schema, settings, calibration)
                )
                size = {"bytes": engine.stat().st_size}
                found["engines"][name] = msgspec.to_builtins(record) | size
                found["built"] = True
            if engine.exists():
                yield engine
