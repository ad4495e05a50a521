"""Rollouts on the real servers: a good version is promoted by itself, bad ones leave by themselves.

    uv run python -m bench.canary

A log's people act without end through two workers, while the controller tries out one version after
another: some that are bad in a way each, and one that has learned from a window of events.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from headwater_client.errors import ServerError
from rich.console import Console

from bench.canary.figures import Case, figures, table
from bench.canary.load import Audience, Seen
from bench.canary.versions import REFUSED, Candidate, candidates, learned_more, load_by_hand
from bench.harness.cores import split
from bench.harness.report import run_benchmark, write_report
from bench.harness.servers import own_settings
from bench.harness.subjects import HEADWATER, running
from deploy import local
from deploy.commands.data_options import Data, Map, Type
from deploy.jobs.start_rollout import load_candidate
from deploy.rollout import CommandRejectedError, CommandRequest, RolloutSettings, sign_command
from deploy.rollout.requests import read_history, send_command
from deploy.settings import Settings, default_cache_dir
from deploy.settings_text import variable
from features.inputs import MODEL_NAME
from features.kafka import ensure_topics
from features.rollout_messages import RolloutAction, RolloutStep
from features.schema import FeatureSchema
from trainer.datasets.log import DataSource, Log, load_log
from trainer.datasets.mapping import mapping_from_options
from trainer.registry.publish import publish
from trainer.registry.triton import ModelServer
from trainer.settings import TrainerSettings
from trainer.text.encoder import language_model
from trainer.training.from_scratch import train_first_model

# A rollout within minutes, among some hundred people, who differ by more than versions do.
RULES = RolloutSettings.model_validate(
    {
        "admin_token": "for this benchmark",
        "steps": (0.1, 0.5),
        "shadow_fraction": 0.1,
        "shadow_s": 5,
        "min_requests": 100,
        "min_shown": 500,
        "min_step_s": 5,
        "margin": 0.3,
        "max_harm": 0.25,
        "interval_s": 0.5,
        "give_up_s": 600,
    }
)
_POLL_S = 0.5
_QUIET_S = 10.0
_SETTLE_S = 3.0
_START_S = 120.0


def main(
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    rate: Annotated[float, typer.Option(help="events/s", min=10)] = 200.0,
    train_s: Annotated[float, typer.Option(help="of the first model, at most", min=1)] = 120.0,
) -> None:
    """Roll out a good version and bad ones; count who noticed."""
    console = Console(stderr=True)
    mapping = mapping_from_options(maps or [], types or [])
    log = load_log(DataSource(default_cache_dir(), data, mapping))
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        wanted = own_settings(Path(folder)).model_copy(update={"rollout": RULES})
        try:
            settings = local.up(wanted)
            tried = prepared(settings, log, train_s, console)
            with closing(audience(settings, log, rate)) as people, services(settings):
                people.wait(_START_S)
                cases = [tried_out(one, settings, people, console) for one in tried]
        finally:
            local.down(wanted)
    found = figures(cases) | {"rate": rate, "rules": RULES.model_dump(mode="json")}
    Console(width=180).print(table(found))
    if report:
        write_report(report, "canary", found)


def prepared(settings: Settings, log: Log, train_s: float, console: Console) -> list[Candidate]:
    """What is tried out beside a version of the first half of the log."""
    ensure_topics(settings.kafka)
    schema, server = FeatureSchema(settings.features), ModelServer(settings.triton.url or "")
    training = TrainerSettings(max_seconds=train_s)
    reader = language_model(training.language_model, default_cache_dir())
    before, after = log.split(0.5)
    console.print("training the live version ...")
    first = train_first_model(before, schema, training, reader=reader)
    publish(first, settings.model_repository, server, settings.kafka, schema, training)
    console.print("learning from a window, and breaking what it gave ...")
    window = after.events[: len(log.events) // 10]
    good = learned_more(first, before, window, schema, training, reader)
    return candidates(good, settings.model_repository, schema, training)


def audience(settings: Settings, log: Log, rate: float) -> Audience:
    """The people of the second half."""
    return Audience(settings.kafka, log.split(0.5)[1].events, rate)


@contextmanager
def services(settings: Settings) -> Iterator[None]:
    """Two workers and the controller."""
    everywhere, rules = split(2), RULES.model_dump(mode="json")
    chosen = {variable(f"rollout.{name}"): _text(value) for name, value in rules.items()}
    chosen[variable("rollout.admin_token")] = _token()
    chosen[variable("model_repository")] = str(settings.model_repository)
    with ExitStack() as stack:
        for name in ("one", "two"):
            named = {"HEADWATER_WORKER__NAME": name}
            stack.enter_context(running(settings, HEADWATER, "headwater", everywhere, named))
        controller = ("-m", "deploy.cli", "controller")
        stack.enter_context(running(settings, controller, "controller", everywhere, chosen))
        yield


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _token() -> str:
    return RULES.admin_token.get_secret_value() if RULES.admin_token else ""


def tried_out(one: Candidate, settings: Settings, people: Audience, console: Console) -> Case:
    """One candidate's rollout, from the quiet before it to a moment after its end."""
    people.seen()
    time.sleep(_QUIET_S)
    quiet = people.seen()
    console.print(f"{one.name} ...", highlight=False)
    try:
        name = _started(one, settings)
    except CommandRejectedError as refused:
        case = Case(one.name, one.expected, REFUSED, str(refused), [], quiet, people.seen())
    else:
        case = _verdict(one, name, settings, people, quiet)
    console.print(f"{one.name}: {case.outcome}: {case.reason}", highlight=False)
    return case


def _started(one: Candidate, settings: Settings) -> str:
    if one.by_hand:
        load_by_hand(one.version, ModelServer(settings.triton.url or ""))
    else:
        load_candidate(settings, one.version.number)
    number, address = one.version.number, one.version.address
    request = CommandRequest(MODEL_NAME, RolloutAction.START, "bench", one.name, number, address)
    return send_command(settings.kafka, sign_command(RULES, request)).reason.split()[1]


def _verdict(
    one: Candidate, name: str, settings: Settings, people: Audience, quiet: list[Seen]
) -> Case:
    deadline = time.monotonic() + RULES.give_up_s
    steps: list[RolloutStep] = []
    while not steps or not steps[-1].rollout.phase.is_terminal:
        if time.monotonic() > deadline:
            raise ServerError(f"{one.name}: no verdict in {RULES.give_up_s:.0f} s")
        time.sleep(_POLL_S)
        found = read_history(settings.kafka, MODEL_NAME)
        steps = [each for each in found.steps if each.rollout.rollout_id == name]
    time.sleep(_SETTLE_S)
    last = steps[-1]
    return Case(
        one.name, one.expected, last.rollout.phase, last.reason, steps, quiet, people.seen()
    )


if __name__ == "__main__":
    run_benchmark(main)
