"""Whether the forms of a version answer as its graph does, on held-out events."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bench.model.forms import Form
from bench.model.progress import Progress
from deploy.optimize.parity import InferFunction, load_graph, measure_parity
from deploy.optimize.requests import EvalRequests
from trainer.export.parity import Arrays


def compare(progress: Progress, form: Form, graph: Path, asked: EvalRequests) -> None:
    """Note how like the graph a form answers."""
    with progress.part(f"answers of {form.name}"):
        found = measure_parity(load_graph(graph), _of_form(form), asked)
        kept = progress.figures.setdefault("agreement", {})
        kept[form.name] = asdict(found) | {"ndcg_kept": found.ndcg_ratio}


def _of_form(form: Form) -> InferFunction:
    calls = form.calls()

    def answered(feeds: Arrays) -> Arrays:
        call = calls(feeds)
        call.run()
        return call.fetch()

    return answered
