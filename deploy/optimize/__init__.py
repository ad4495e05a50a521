"""The same model, as fast as the hardware allows: other forms of a graph, and their proof.

OptimizeError (1)
├── BuildError       an engine cannot be built of this graph
└── NotHereError     this machine cannot run it: no GPU, no TensorRT, or another one than built it
"""

from __future__ import annotations

from headwater_client.errors import HeadwaterError


class OptimizeError(HeadwaterError):
    """A version has no faster form, or one that cannot be used: it stays on ONNX Runtime."""


class BuildError(OptimizeError):
    """An engine cannot be built of this graph."""


class NotHereError(OptimizeError):
    """There is no GPU here, no TensorRT, or another one than the engine was built by."""
