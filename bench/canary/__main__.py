"""Rollouts on the real servers: a good version is promoted by itself, bad ones leave by themselves.

    uv run python -m bench.canary

A log's people act without end through two workers, while the controller tries out one version after
another: some that are bad in a way each, and one that has learned from a window of events.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from headwater_client.errors import ServerError
from headwater_client.events import Recommendation
from rich.console import Console
from rich.table import Table

from bench.canary.versions import REFUSED, Candidate, Workshop, load_by_hand, make_candidates
from bench.harness.load import ENDLESS, Load, Sending, Workload
from bench.harness.measure import split_cores
from bench.harness.processes import WORKER, local_settings, run_system, variables_of
from bench.harness.runner import Benchmark, MappedDataOptions, Results, make_table, work_folder
from bench.harness.servers import publish_first
from deploy import local
from deploy.jobs.train import load_candidate, model_registry
from deploy.rollout import CommandRejectedError, CommandRequest, RolloutSettings, sign_command
from deploy.rollout.topic import read_history, send_command
from deploy.settings import Settings, default_cache_dir
from features.inputs import MODEL_NAME
from features.rollout_messages import RolloutAction, RolloutPhase, RolloutStep, Variant
from trainer.datasets import Log
from trainer.settings import TrainerSettings
from trainer.text import load_text_encoder

# A rollout within minutes, among some hundred people, who differ by more than versions do.
RULES = RolloutSettings.model_validate(
    {
        "admin_token": "for this benchmark",
        "steps": (0.1, 0.5),
        "shadow_fraction": 0.1,
        "shadow_s": 5,
        "min_requests": 100,
        "min_shown": 500,
        "min_people": 30,
        "min_buckets": 16,
        "min_step_s": 5,
        "margin": 0.3,
        "max_harm": 0.25,
        "interval_s": 0.5,
        "give_up_s": 600,
    }
)
CONTROLLER = ("-m", "deploy.cli", "controller")
_POLL_S = 0.5
_QUIET_S = 10.0
_SETTLE_S = 3.0
_START_S = 120.0


_OUR_OWN = (Variant.STABLE, Variant.BASELINE)


@dataclass(frozen=True, slots=True)
class SeenAnswer:
    """A recommendation as the app got it.

    Attributes:
        ill: another version than the person's own answered, or none.
        latency_ms: of the version's answer.
        produced_ms: when it was made.
    """

    user_id: str
    variant: str
    version: str
    rollout_id: str
    ill: bool
    latency_ms: float
    produced_ms: int

    @classmethod
    def note(cls, answer: Recommendation, _: float) -> "SeenAnswer":
        """What is kept of a recommendation."""
        return cls(
            answer.user_id,
            answer.variant,
            answer.model_version,
            answer.rollout_id,
            bool(answer.failed) or answer.fallback,
            answer.latency_ms or 0.0,
            answer.produced_time,
        )


@dataclass(frozen=True)
class CanaryCase:
    """One candidate.

    Attributes:
        expected, outcome: the state that it had to end in and did, or `refused`.
        steps: of its rollout, none where it was refused.
        quiet, seen: recommendations right before it, and meanwhile.
    """

    name: str
    expected: str
    outcome: str
    reason: str
    steps: Sequence[RolloutStep]
    quiet: Sequence[SeenAnswer]
    seen: Sequence[SeenAnswer]


def figures(cases: Sequence[CanaryCase]) -> dict[str, Any]:
    """The report's figures, a row for each case."""
    rows = {case.name: _row(case) for case in cases}
    return {
        "as_expected": all(case.outcome == case.expected for case in cases),
        "stable_ill": sum(row["stable_ill"] for row in rows.values()),
        "people_who_changed_variant": sum(row["changed_variant"] for row in rows.values()),
        "rollback_to_last_canary_answer_s": max(
            (row["last_canary_answer_s"] for row in rows.values()), default=0.0
        ),
        "cases": rows,
    }


def _row(case: CanaryCase) -> dict[str, Any]:
    canary = [answer for answer in case.seen if answer.variant == Variant.CANARY]
    stable = [answer for answer in case.seen if answer.variant in _OUR_OWN]
    return {
        "expected": case.expected,
        "outcome": case.outcome,
        "reason": case.reason,
        "seconds": _seconds(case.steps),
        "states": [step.rollout.phase.value for step in case.steps],
        "shown": len(canary),
        "of_everyones": len(canary) / max(1, len(case.seen)),
        "stable_ill": sum(answer.ill for answer in stable),
        "stable_p99_ms": _p99_ms(stable),
        "quiet_p99_ms": _p99_ms(case.quiet),
        "changed_variant": _count_changed(case.seen),
        "last_canary_answer_s": _last_answer_s(case.steps, canary),
    }


def _seconds(steps: Sequence[RolloutStep]) -> float:
    """From the start to the verdict."""
    return (steps[-1].rollout.time - steps[0].rollout.time) / 1000 if steps else 0.0


def _p99_ms(seen: Sequence[SeenAnswer]) -> float:
    return float(np.percentile([answer.latency_ms for answer in seen], 99)) if seen else 0.0


def _count_changed(seen: Sequence[SeenAnswer]) -> int:
    """People who left the canary for its baseline, or the other way, within a rollout."""
    of: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for answer in seen:
        if answer.variant in (Variant.CANARY, Variant.BASELINE):
            of[answer.rollout_id, answer.user_id].add(answer.variant)
    return sum(len(variants) > 1 for variants in of.values())


def _last_answer_s(steps: Sequence[RolloutStep], canary: Sequence[SeenAnswer]) -> float:
    """How long after it was taken back the canary still answered; 0 where it was not."""
    if not steps or steps[-1].rollout.phase is not RolloutPhase.ROLLED_BACK:
        return 0.0
    decided_ms = steps[-1].rollout.time
    return max([0.0, *((answer.produced_ms - decided_ms) / 1000 for answer in canary)])


def make_cases_table(found: Mapping[str, Any]) -> Table:
    """All cases."""
    columns = ("outcome", "s", "canary shown", "of everyone's", "stable ill", "stable p99 ms")
    drawn = make_table("Rollouts on the real servers", "version", columns)
    drawn.add_column("why")
    for name, row in found["cases"].items():
        drawn.add_row(
            name,
            row["outcome"] if row["outcome"] == row["expected"] else f"{row['outcome']} (!)",
            f"{row['seconds']:.1f}",
            f"{row['shown']:,}",
            f"{row['of_everyones']:.1%}",
            str(row["stable_ill"]),
            f"{row['quiet_p99_ms']:.0f} > {row['stable_p99_ms']:.0f}",
            row["reason"],
        )
    return drawn


@dataclass(frozen=True, kw_only=True)
class CanaryOptions(MappedDataOptions):
    """Options of `bench.canary`."""

    rate: Annotated[float, typer.Option(help="events/s", min=10)] = 200.0
    train_s: Annotated[float, typer.Option(help="of the first model, at most", min=1)] = 120.0


def measure(options: CanaryOptions, console: Console) -> Results:
    """Roll out a good version and bad ones; count who noticed."""
    log = options.load_log()
    with work_folder() as folder:
        wanted = local_settings(folder).model_copy(update={"rollout": RULES})
        try:
            settings = local.up(wanted)
            candidates = prepare_candidates(settings, log, options.train_s, console)
            # Newcomers: when the log has ended, clicks go on to say something.
            workload = Workload(options.source, since=0.5, newcomers=True)
            people = Load(settings.kafka, workload, SeenAnswer.note)
            with closing(people), run_services(settings):
                people.start(Sending(ENDLESS, options.rate))
                wait_for_answers(people)
                trial = CandidateTrial(settings, people, console)
                cases = [trial.run(candidate) for candidate in candidates]
        finally:
            local.down(wanted)
    report = figures(cases) | {"rate": options.rate, "rules": RULES.model_dump(mode="json")}
    return Results(report, [make_cases_table(report)])


def wait_for_answers(people: Load[SeenAnswer]) -> None:
    """Wait until somebody is answered.

    Raises:
        ServerError: nobody is in time.
    """
    deadline = time.monotonic() + _START_S
    while not people.take_answers():
        if time.monotonic() > deadline:
            raise ServerError(f"no recommendation in {_START_S:.0f} s")
        time.sleep(_POLL_S)


def prepare_candidates(
    settings: Settings, log: Log, train_s: float, console: Console
) -> Sequence[Candidate]:
    """What is tried out beside a version of the first half of the log, which goes live."""
    training = TrainerSettings(max_seconds=train_s)
    text_encoder = load_text_encoder(training.language_model, default_cache_dir())
    workshop = Workshop(model_registry(settings, training), text_encoder)
    before, after = log.split(0.5)
    console.print("training the live version ...")
    first = workshop.train(before)
    publish_first(first, settings, training)
    console.print("learning from a window, and breaking what it gave ...")
    window = after.events[: len(log.events) // 10]
    return make_candidates(workshop.learn_more(first, before, window), workshop)


@contextmanager
def run_services(settings: Settings) -> Iterator[None]:
    """Two workers and the controller."""
    rules = {
        f"rollout.{name}": _text(value) for name, value in RULES.model_dump(mode="json").items()
    }
    token = RULES.admin_token.get_secret_value() if RULES.admin_token else ""
    chosen = variables_of(rules | {"rollout.admin_token": token})
    with ExitStack() as stack:
        for name in ("one", "two"):
            variables = {"HEADWATER_WORKER__NAME": name}
            cores = split_cores(2).working()
            stack.enter_context(run_system(settings, WORKER, "headwater", cores, variables))
        cores = split_cores(2).working()
        stack.enter_context(run_system(settings, CONTROLLER, "controller", cores, chosen))
        yield


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class CandidateTrial:
    """Tries out one candidate after another on running services."""

    settings: Settings
    people: Load[SeenAnswer]
    console: Console

    def run(self, candidate: Candidate) -> CanaryCase:
        """One candidate's rollout, from the quiet before it to a moment after its end."""
        self.people.take_answers()
        time.sleep(_QUIET_S)
        quiet = self.people.take_answers()
        name, expected = candidate.name, candidate.expected
        self.console.print(f"{name} ...", highlight=False)
        try:
            rollout_id = self._start(candidate)
        except CommandRejectedError as refused:
            seen = self.people.take_answers()
            case = CanaryCase(name, expected, REFUSED, str(refused), [], quiet, seen)
        else:
            case = self._await_verdict(candidate, rollout_id, quiet)
        self.console.print(f"{name}: {case.outcome}: {case.reason}", highlight=False)
        return case

    def _start(self, candidate: Candidate) -> str:
        number, address = candidate.version.number, candidate.version.address
        if candidate.by_hand:
            load_by_hand(candidate.version, model_registry(self.settings))
        else:
            load_candidate(self.settings, number)
        request = CommandRequest(
            MODEL_NAME, RolloutAction.START, "bench", candidate.name, number, address
        )
        return send_command(self.settings.kafka, sign_command(RULES, request)).reason.split()[1]

    def _await_verdict(
        self, candidate: Candidate, rollout_id: str, quiet: Sequence[SeenAnswer]
    ) -> CanaryCase:
        deadline = time.monotonic() + RULES.give_up_s
        steps: list[RolloutStep] = []
        while not steps or not steps[-1].rollout.phase.is_terminal:
            if time.monotonic() > deadline:
                raise ServerError(f"{candidate.name}: no verdict in {RULES.give_up_s:.0f} s")
            time.sleep(_POLL_S)
            told = read_history(self.settings.kafka, MODEL_NAME)
            steps = [step for step in told.steps if step.rollout.rollout_id == rollout_id]
        time.sleep(_SETTLE_S)
        return CanaryCase(
            candidate.name,
            candidate.expected,
            steps[-1].rollout.phase,
            steps[-1].reason,
            steps,
            quiet,
            self.people.take_answers(),
        )


BENCHMARK = Benchmark("canary", CanaryOptions, measure, width=180)

if __name__ == "__main__":
    BENCHMARK.main()
