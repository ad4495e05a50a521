"""Training of one model, or of an ensemble of them (`trainer.network.model`)."""

from collections.abc import Callable
from dataclasses import replace

import torch

from trainer.network import Model, TemporalModel, TrainingOutcome, join_models, select_device
from trainer.progress import ProgressReporter, Report, TrainingProgress
from trainer.training.fit import TrainingInputs, fit, held_out_ndcg

# The seeds of members lie so far apart.
_SEEDS_APART = 1000


def fit_ensemble(
    initial_model: Callable[[int], TemporalModel],
    inputs: TrainingInputs,
    progress: ProgressReporter | None = None,
) -> tuple[Model, TrainingOutcome]:
    """All members, trained one after another, and how they do together; see `fit`.

    Args:
        initial_model: the model that a member begins from, by its number.
    """
    settings, progress = inputs.settings, progress or ProgressReporter()
    whole = _EnsembleProgress(progress, settings.ensemble_size)
    members, outcomes = [], []
    for number in range(settings.ensemble_size):
        seed = settings.seed + _SEEDS_APART * number
        torch.manual_seed(seed)
        model = initial_model(number).to(select_device(settings))
        of_member = replace(inputs, settings=settings.model_copy(update={"seed": seed}))
        outcomes.append(fit(model, of_member, whole.member_progress(number)))
        # What comes after, export and checkpoint, is the CPU's.
        members.append(model.cpu())
    if len(members) == 1:
        return members[0], outcomes[0]
    ensemble = join_models(members)
    return ensemble, TrainingOutcome(
        epoch=max(outcome.epoch for outcome in outcomes),
        held_out=held_out_ndcg(ensemble, inputs.held_out, settings.batch_size),
        seconds=sum(outcome.seconds for outcome in outcomes),
        gradients=sum(outcome.gradients for outcome in outcomes),
        curve=tuple(
            replace(epoch, member=number)
            for number, outcome in enumerate(outcomes, 1)
            for epoch in outcome.curve
        ),
    )


class _EnsembleProgress:
    """The progress of one member after another, told as that of one training."""

    def __init__(self, progress: ProgressReporter, members: int) -> None:
        self._progress, self._members = progress, members
        self._step = 0

    def member_progress(self, number: int) -> ProgressReporter:
        """What this member reports to."""
        report = self._progress.report
        return ProgressReporter(
            self._member_report(report, number) if report else None, self._progress.now_s
        )

    def _member_report(self, report: Report, number: int) -> Report:
        steps_before = self._step

        def tell(progress: TrainingProgress) -> None:
            metrics = progress.metrics
            if metrics:
                self._step = steps_before + metrics.step
                metrics = replace(
                    metrics,
                    epoch=number * metrics.epochs + metrics.epoch,
                    epochs=self._members * metrics.epochs,
                    done=(number + metrics.done) / self._members,
                    step=self._step,
                )
            report(
                replace(
                    progress,
                    done=(number + progress.done) / self._members,
                    seconds_left=self._seconds_left(progress, number),
                    metrics=metrics,
                )
            )

        return tell

    def _seconds_left(self, progress: TrainingProgress, number: int) -> float | None:
        """Until the last member ends the phase, if each takes as long as this one."""
        left_s, left = progress.seconds_left, 1 - progress.done
        if left_s is None or number == self._members - 1:
            return left_s
        return left_s * (1 + (self._members - 1 - number) / left) if left else None
