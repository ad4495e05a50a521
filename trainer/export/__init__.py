"""A trained model as an ONNX graph, and as Triton serves it."""

from trainer.export.onnx import Arrays, ExportError, answers, export, open_session, sample_inputs
from trainer.export.scoring_graph import ScoringGraph

__all__ = [
    "Arrays",
    "ExportError",
    "ScoringGraph",
    "answers",
    "export",
    "open_session",
    "sample_inputs",
]
