"""When a canary's share grows, and what takes it back."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr, model_validator

from features.settings import DAY_MS, OpenFraction, Section

# Beyond a half a coin would do better, and no confidence sequence is defined.
ErrorRate = Annotated[float, Field(gt=0, le=0.5)]
CanaryFraction = Annotated[float, Field(gt=0, le=0.5)]
DAY_S = DAY_MS / 1000


class RolloutSettings(Section):
    """How a canary earns its traffic. Error rates hold however often figures are looked at."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "shadow_share": "shadow_fraction",
        "purchase_weight": "purchase_reward",
    }

    steps: Annotated[tuple[CanaryFraction, ...], Field(min_length=1)] = Field(
        (0.01, 0.05, 0.25, 0.5),
        description="fractions of people who see the canary, step by step; as many see the "
        "baseline, so at most 0.5",
    )
    shadow_fraction: CanaryFraction = Field(
        0.05,
        description="fraction of people for whom a candidate is asked in shadow mode, before "
        "anyone sees its answers",
    )
    shadow_s: Annotated[float, Field(ge=0)] = Field(
        600.0, description="seconds in shadow mode, at least; 0: no shadow mode"
    )
    margin: OpenFraction = Field(
        0.04,
        description="non-inferiority margin: largest accepted loss of reward, as a fraction of "
        "the baseline's",
    )
    false_promotion: ErrorRate = Field(
        0.01,
        description="type I error: largest probability that a version which is worse by more "
        "than the margin is promoted",
    )
    false_rollback: ErrorRate = Field(
        0.05,
        description="largest probability that a version as good as the baseline is rolled back "
        "for its reward",
    )
    max_harm: OpenFraction = Field(
        0.03,
        description="the canary's traffic grows only where the worst loss that the confidence "
        "sequence allows costs no more than this fraction of everyone's reward",
    )
    min_shown: Annotated[int, Field(ge=1)] = Field(
        1000, description="recommendations of each variant before anything is decided, at least"
    )
    min_people: Annotated[int, Field(ge=0)] = Field(
        100,
        description="people of each variant before anything is decided on reward, at least; "
        "where a step has fewer, begin with larger steps",
    )
    min_buckets: Annotated[int, Field(ge=0, le=64)] = Field(
        32,
        description="of the 64 buckets of people that errors are estimated from, those with "
        "recommendations of each variant before anything is decided on reward, at least",
    )
    min_step_s: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="seconds of each step, at least"
    )
    hold_s: Annotated[float, Field(gt=0)] = Field(
        4 * DAY_S,
        description="seconds without a decision after which a step is held and reported to "
        "operators",
    )
    give_up_s: Annotated[float, Field(gt=0)] = Field(
        14 * DAY_S, description="seconds without a decision after which a rollout is rolled back"
    )
    credit_window_s: Annotated[float, Field(gt=0)] = Field(
        1800.0,
        description="attribution window: seconds after a recommendation in which a click or "
        "purchase of its items counts for it",
    )
    purchase_reward: Annotated[float, Field(ge=0)] = Field(
        1.0, description="reward of a purchase; a click is 1"
    )
    interval_s: Annotated[float, Field(gt=0, le=60)] = Field(
        1.0, description="seconds from one decision of the controller to the next"
    )
    admin_token: SecretStr | None = Field(
        None,
        description="secret that a command to a rollout must carry; empty: no command is taken",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="port where Prometheus reads the controller's metrics; 0: nowhere"
    )
    metrics_address: str = Field(
        "127.0.0.1", description="network interface of metrics_port; 0.0.0.0: all of them"
    )
    min_requests: Annotated[int, Field(ge=1)] = Field(
        100, description="requests to the canary before a guard can roll it back, at least"
    )
    max_error_rate: OpenFraction = Field(
        0.01,
        description="guard: fraction of the canary's requests that may fail beyond the baseline's",
    )
    max_fallback_rate: OpenFraction = Field(
        0.02,
        description="guard: fraction of the canary's requests that may be answered with popular "
        "items beyond the baseline's",
    )
    max_short_rate: OpenFraction = Field(
        0.1,
        description="guard: fraction of the canary's lists that may be shorter than asked for, "
        "beyond the baseline's, because nothing else may be shown",
    )
    max_slowdown: Annotated[float, Field(gt=1)] = Field(
        2.0, description="guard: the canary's p99 latency, as a multiple of the baseline's, at most"
    )
    min_slow_ms: Annotated[float, Field(ge=0)] = Field(
        20.0,
        description="guard: a p99 latency of the canary up to this is not slow, whatever the "
        "baseline's, in milliseconds",
    )
    min_coverage: OpenFraction = Field(
        0.5,
        description="guard: different items that the canary shows, as a fraction of the "
        "baseline's, at least",
    )
    max_drift: Annotated[float, Field(gt=0)] = Field(
        1.0,
        description="guard: population stability index between the distributions of people's "
        "best scores, canary and baseline, beyond chance, at most",
    )

    @model_validator(mode="after")
    def _steps_grow(self) -> "RolloutSettings":
        if any(later <= before for before, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps {self.steps}: each must be larger than the one before")
        return self
