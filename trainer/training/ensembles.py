"""Training of one model, or of an ensemble of them (`trainer.network.ensemble`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from trainer.examples.batches import Batches
from trainer.examples.cooccurrence import CooccurrenceCounter
from trainer.network import Model, TemporalModel, TrainingOutcome, join_models, select_device
from trainer.settings import TrainerSettings
from trainer.training.fit import EpochMetrics, Report, fit, held_out_ndcg

# The seeds of members lie so far apart.
_SEEDS_APART = 1000


def fit_ensemble(
    begin: Callable[[int], TemporalModel],
    learned: Batches,
    held_out: Batches,
    settings: TrainerSettings,
    counts: CooccurrenceCounter | None = None,
    report: Report | None = None,
    live_share: float = 0.0,
    teacher: Model | None = None,
) -> tuple[Model, TrainingOutcome]:
    """All members, trained one after another, and how they do together. The rest as `fit`.

    Args:
        begin: the model that a member begins from, by its number.
    """
    members, outcomes = [], []
    told = _EnsembleProgress(report, settings.ensemble_size) if report else None
    for number in range(settings.ensemble_size):
        of_member = settings.model_copy(update={"seed": settings.seed + _SEEDS_APART * number})
        torch.manual_seed(of_member.seed)
        model = begin(number).to(select_device(settings))
        of_this = told.of(number) if told else None
        outcomes.append(
            fit(model, learned, held_out, of_member, counts, of_this, live_share, teacher)
        )
        # What comes after, export and checkpoint, is the CPU's.
        members.append(model.cpu())
    if len(members) == 1:
        return members[0], outcomes[0]
    together = join_models(members)
    return together, TrainingOutcome(
        epoch=max(one.epoch for one in outcomes),
        held_out=held_out_ndcg(together, held_out, settings.batch_size),
        seconds=sum(one.seconds for one in outcomes),
        gradients=sum(one.gradients for one in outcomes),
    )


class _EnsembleProgress:
    """The progress of one member after another, told as that of one training."""

    def __init__(self, report: Report, members: int) -> None:
        self._report, self._members = report, members
        self._step = 0

    def of(self, number: int) -> Report:
        """What this member reports to."""
        steps_before = self._step

        def tell(progress: EpochMetrics) -> None:
            self._step = steps_before + progress.step
            self._report(
                replace(
                    progress,
                    epoch=number * progress.epochs + progress.epoch,
                    epochs=self._members * progress.epochs,
                    done=(number + progress.done) / self._members,
                    step=self._step,
                )
            )

        return tell
