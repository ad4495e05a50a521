"""What a training told of itself, kept for a test."""

from __future__ import annotations

from trainer.progress import EpochMetrics, Report, TrainingProgress


def keep_metrics(steps: list[EpochMetrics]) -> Report:
    """A report that keeps the metrics of each step."""

    def keep(progress: TrainingProgress) -> None:
        if progress.metrics:
            steps.append(progress.metrics)

    return keep
