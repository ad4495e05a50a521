"""Training of one model, or of several alike whose scores are averaged; generations of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from trainer.batches import Batches
from trainer.cooccurrence import Cooccurrence
from trainer.devices import device_of
from trainer.ensemble import Model, joined
from trainer.model import TemporalModel
from trainer.settings import TrainerSettings
from trainer.train import Outcome, Progress, Report, fit, held_out_ndcg

# The seeds of members lie so far apart.
_SEEDS_APART = 1000


def fit_members(
    begin: Callable[[int], TemporalModel],
    learned: Batches,
    held_out: Batches,
    settings: TrainerSettings,
    counts: Cooccurrence | None = None,
    report: Report | None = None,
    live_share: float = 0.0,
    teacher: Model | None = None,
) -> tuple[Model, Outcome]:
    """All members, trained one after another, and how they do together. The rest as `fit`.

    Each generation learns what the one before answers (T. Furlanello et al., "Born-again neural
    networks", ICML 2018); the newest is what is given.

    Args:
        begin: the model that a member begins from, by its number.
    """
    told = _Told(report, settings.generations * settings.members) if report else None
    outcomes: list[Outcome] = []

    def trained(number: int, teacher: Model | None) -> TemporalModel:
        of_member = settings.model_copy(update={"seed": settings.seed + _SEEDS_APART * number})
        torch.manual_seed(of_member.seed)
        model = begin(number % settings.members).to(device_of(settings))
        of_this = told.of(number) if told else None
        outcomes.append(
            fit(model, learned, held_out, of_member, counts, of_this, live_share, teacher)
        )
        # What comes after, export and checkpoint, is the CPU's.
        return model.cpu()

    def generation(first: int, teacher: Model | None) -> Model:
        numbers = range(first, first + settings.members)
        return joined([trained(number, teacher) for number in numbers])

    model = generation(0, teacher)
    for later in range(1, settings.generations):
        model = generation(later * settings.members, model)
    newest = outcomes[-settings.members :]
    if len(newest) == 1:
        score = newest[0].held_out
    else:
        score = held_out_ndcg(model, held_out, settings.batch_windows)
    return model, Outcome(
        epoch=max(one.epoch for one in newest),
        held_out=score,
        seconds=sum(one.seconds for one in outcomes),
        gradients=sum(one.gradients for one in outcomes),
    )


class _Told:
    """The progress of one training after another, told as that of one."""

    def __init__(self, report: Report, trainings: int) -> None:
        self._report, self._trainings = report, trainings
        self._step = 0

    def of(self, number: int) -> Report:
        """What this training reports to."""
        steps_before = self._step

        def tell(progress: Progress) -> None:
            self._step = steps_before + progress.step
            self._report(
                replace(
                    progress,
                    epoch=number * progress.epochs + progress.epoch,
                    epochs=self._trainings * progress.epochs,
                    done=(number + progress.done) / self._trainings,
                    step=self._step,
                )
            )

        return tell
