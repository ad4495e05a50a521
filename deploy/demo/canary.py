"""The demo's canary: a version that has learned what came last, tried out beside the first one.

What the trainer and the controller do in days happens here within a minute: the newest part of
the past is a window, the slow loop makes a version of it, and the controller tries it out while the
rest of the log is replayed.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from secrets import token_hex
from typing import Any

from pydantic import SecretStr

from deploy.demo.learning import window_settings
from deploy.local.process import free_port
from deploy.rollout.topic import read_history
from deploy.services.supervisor import StopSignal, Warn, supervise
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from trainer.settings import Release

FIRST_SHARE = 0.9
"""Of the past the first version learns so much; the rest is the window of the second one."""
# A rollout of a minute among some hundred people: in production all of these are larger, or longer.
_RULES: dict[str, Any] = {
    "steps": (0.25, 0.5),
    "shadow_fraction": 0.25,
    "shadow_s": 4.0,
    "min_shown": 300,
    "min_people": 20,
    "min_buckets": 12,
    "min_step_s": 5.0,
    "margin": 0.2,
    "max_harm": 0.25,
    "interval_s": 0.5,
    # Few people act at a time, and the scores of one are alike.
    "max_drift": 5.0,
}


def canary_settings(settings: Settings, window_events: int) -> Settings:
    """The settings with the rules of a short rollout, and with a window for so many events."""
    ports = settings.rollout.metrics_port, settings.worker.metrics_port
    rules = {
        **_RULES,
        "admin_token": settings.rollout.admin_token or SecretStr(token_hex(32)),
        "metrics_port": ports[0] or free_port(ports),
    }
    changed = {
        "rollout": settings.rollout.model_copy(update=rules),
        "trainer": settings.trainer.model_copy(update={"release": Release.CANARY}),
    }
    return window_settings(settings.model_copy(update=changed), window_events)


@contextmanager
def try_next_version(settings: Settings, say: Warn) -> Iterator[None]:
    """Make a version of the newest window; for as long as the block it is tried out.

    Args:
        settings: `canary_settings`, of servers that are up; a first version is live, and windows
            are written.

    Raises:
        HeadwaterError: a server is away, or what is stored is damaged.
    """
    # torch takes seconds to import: not before it is needed.
    from deploy.services.trainer import slow_loop  # noqa: PLC0415

    log = settings.local.state_dir / "logs" / "controller.log"
    with supervise("controller", settings, log, say):
        with closing(slow_loop(settings, StopSignal())) as steps:
            step = next(steps)
        if step.version and step.verdict:
            after, before = step.verdict.candidate, step.verdict.reference
            say(
                f"  version {step.version.number} is tried out: it has learned a window more, and "
                f"passed the gate: NDCG@10 {after.ndcg_at_10:.3f}, before {before.ndcg_at_10:.3f}"
            )
        else:
            say(f"  no version to try out: {step.reason}")
        yield


def summarise_canary(settings: Settings) -> dict[str, Any] | None:
    """How the newest rollout stands; None where nothing was tried out.

    `change` is what the canary earned beside its baseline, as a fraction, within `bounds` with all
    that chance allows; they are missing while nothing is known.
    """
    found = read_history(settings.kafka, MODEL_NAME)
    tried = [step for step in found.steps if step.rollout.rollout_id]
    if not tried:
        return None
    newest = tried[-1]
    told: dict[str, Any] = {"state": newest.rollout.phase.value, "reason": newest.reason}
    course = found.courses.get(newest.rollout.rollout_id)
    sample = course.samples[-1] if course and course.samples else None
    if sample and sample.estimate is not None:
        told["change"] = round(math.expm1(sample.estimate), 4)
    if sample and sample.lower is not None and sample.upper is not None:
        told["bounds"] = [round(math.expm1(each), 4) for each in (sample.lower, sample.upper)]
    return told


def describe_canary(told: Mapping[str, Any]) -> str:
    """The same in a line for people.

    >>> describe_canary({"state": "running", "reason": "goes on"})
    'the canary is running: what it earns is not known yet'
    """
    if "bounds" not in told:
        return f"the canary is {told['state']}: what it earns is not known yet"
    low, high = told["bounds"]
    return (
        f"the canary is {told['state'].replace('_', ' ')}: its lists earned {told['change']:+.1%} "
        f"beside those of the version before; chance allows from {low:+.1%} to {high:+.1%}"
    )
