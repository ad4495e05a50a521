"""When a canary's share grows, and what takes it back."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from features.settings import DAY_MS, Section

Share = Annotated[float, Field(gt=0, lt=1)]
Step = Annotated[float, Field(gt=0, le=0.5)]
DAY_S = DAY_MS / 1000


class RolloutSettings(Section):
    """How a canary earns its traffic. Error rates hold however often figures are looked at."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1)] = Field(
        (0.01, 0.05, 0.25, 0.5),
        description="shares of people that see the canary; as many see the baseline, so at most .5",
    )
    shadow_share: Step = Field(
        0.05, description="people for whom a candidate is asked before anyone sees it"
    )
    shadow_s: Annotated[float, Field(ge=0)] = Field(
        600.0, description="how long it is, at least; 0: not at all"
    )
    margin: Share = Field(
        0.04, description="a canary may earn so much less than the baseline, of its reward"
    )
    false_promotion: Share = Field(
        0.01, description="how likely one that is worse than the margin is promoted, at most"
    )
    false_rollback: Share = Field(
        0.05, description="how likely one as good as the baseline is taken back for it, at most"
    )
    max_harm: Share = Field(
        0.03,
        description="a share grows only where the worst that figures allow costs no more than this "
        "part of everyone's reward",
    )
    min_shown: Annotated[int, Field(ge=1)] = Field(
        1000, description="recommendations of each variant before anything is concluded"
    )
    min_step_s: Annotated[float, Field(ge=0)] = Field(3600.0, description="of each step, at least")
    hold_s: Annotated[float, Field(gt=0)] = Field(
        4 * DAY_S, description="a step without a verdict for so long holds: people are told"
    )
    give_up_s: Annotated[float, Field(gt=0)] = Field(
        14 * DAY_S, description="a rollout without a verdict for so long is taken back"
    )
    credit_window_s: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="so long after it was shown a recommendation can earn"
    )
    purchase_weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="what a purchase earns, beside 1 for a click"
    )
    interval_s: Annotated[float, Field(gt=0, le=60)] = Field(
        1.0, description="from one look at the figures to the next"
    )
    admin_token: SecretStr | None = Field(
        None, description="who gives commands to a rollout has to have it; empty: nobody can"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="where Prometheus reads the controller's metrics; 0: nowhere"
    )
    metrics_address: str = Field(
        "127.0.0.1", description="the interface of metrics_port; 0.0.0.0: all of them"
    )
    min_requests: Annotated[int, Field(ge=1)] = Field(
        100, description="of the canary before a guard can take it back"
    )
    max_error_rate: Share = Field(0.01, description="of its requests, beyond the baseline's")
    max_fallback_rate: Share = Field(0.02, description="of its requests, beyond the baseline's")
    max_slowdown: Annotated[float, Field(gt=1)] = Field(
        2.0, description="its p99 latency beside the baseline's"
    )
    min_coverage: Share = Field(0.5, description="items it shows, as a share of the baseline's")
    max_drift: Annotated[float, Field(gt=0)] = Field(
        1.0,
        description="between the distributions of people's best scores, beyond chance: population "
        "stability index",
    )

    @model_validator(mode="after")
    def _steps_grow(self) -> RolloutSettings:
        if any(later <= before for before, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps {self.steps}: each must be larger than the one before")
        return self
