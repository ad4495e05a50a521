"""A version's model as fast as the hardware allows: variants of its graph, and their proof.

    parity       how alike a variant and the graph answer held-out events
    precision    half precision and INT8 in a graph, for GPUs and CPUs
    engine       builds a TensorRT engine; `runtime` describes and runs it
    variants     builds every variant of a version, keeps those that pass, and has one served

OptimizeError (1)
├── BuildError                an engine cannot be built of this graph
└── EngineUnavailableError    this machine cannot run it: no GPU, no TensorRT, or another one

What is imported here needs neither torch nor ONNX.
"""

from headwater_client.errors import HeadwaterError

from deploy.optimize.settings import MatmulPrecision, OptimizeSettings, ServedPrecision

__all__ = [
    "BuildError",
    "EngineUnavailableError",
    "MatmulPrecision",
    "OptimizeError",
    "OptimizeSettings",
    "ServedPrecision",
]


class OptimizeError(HeadwaterError):
    """A version has no variant, or one that cannot be used: it stays on ONNX Runtime."""


class BuildError(OptimizeError):
    """An engine cannot be built of this graph."""


class EngineUnavailableError(OptimizeError):
    """There is no GPU here, no TensorRT, or another one than the engine was built by."""
