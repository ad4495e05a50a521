"""The form in which new versions are served, as the settings say: for what publishes them."""

from __future__ import annotations

from deploy.jobs.optimize import QUESTIONS
from deploy.optimize.forms import Version
from deploy.optimize.publishing import serve_int8
from deploy.optimize.questions import newest_questions
from deploy.optimize.settings import Served
from deploy.settings import Settings
from features.schema import FeatureSchema
from trainer.datasets.log import Log
from trainer.examples.replay import Examples, examples, observed_log, replay
from trainer.loop import OnGatePassed
from trainer.network.trained import Trained
from trainer.registry.drafts import StagedVersion, WriteExtras


def finish_windows(settings: Settings) -> OnGatePassed | None:
    """What the slow loop has to do to a version before it is whole; None: nothing.

    Whether two forms of a version answer alike, events that it has learned tell as well as others.
    """
    if settings.optimize.serve is Served.FLOAT32:
        return None
    schema = FeatureSchema(settings.features)

    def finish(draft: StagedVersion, trained: Trained, events: Examples) -> None:
        asked = newest_questions(events, schema, QUESTIONS)
        version = Version(draft.number, draft.folder, trained.model, schema, asked)
        serve_int8(version, settings.model_repository, settings.optimize)

    return finish


def finish_first(settings: Settings, trained: Trained, log: Log) -> WriteExtras | None:
    """The same for a first model; `log` is what it has learned from."""
    finish = finish_windows(settings)
    if finish is None:
        return None
    schema = FeatureSchema(settings.features)
    replayed = replay(observed_log(log.events, log.items), schema)
    events = examples(replayed, trained.vocabulary, schema)
    return lambda draft: finish(draft, trained, events)
