"""Whether the forms of a version answer as its graph does, on held-out events."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bench.model.forms import Form
from bench.model.progress import Progress
from deploy.optimize.agreement import Answering, agreement, of_graph
from deploy.optimize.questions import Questions
from trainer.export.parity import Arrays


def compare(progress: Progress, form: Form, graph: Path, asked: Questions) -> None:
    """Note how like the graph a form answers."""
    with progress.part(f"answers of {form.name}"):
        found = agreement(of_graph(graph), _of_form(form), asked)
        kept = progress.figures.setdefault("agreement", {})
        kept[form.name] = asdict(found) | {"ndcg_kept": found.kept}


def _of_form(form: Form) -> Answering:
    calls = form.calls()

    def answered(feeds: Arrays) -> Arrays:
        call = calls(feeds)
        call.run()
        return call.fetch()

    return answered
