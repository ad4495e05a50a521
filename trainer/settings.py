"""Settings of training: the size of the model, how it learns, and what stops a version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from features.settings import HOUR_MS, Section

Share = Annotated[float, Field(ge=0, lt=1)]


class Device(StrEnum):
    """Where training computes; auto: on CUDA where there is some."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Part(StrEnum):
    """A part of the model that it can do without."""

    TIME = "time"
    TEXT = "text"
    IDENTITY = "identity"
    COOCCURRENCE = "cooccurrence"
    DECAY = "decay"


class Precision(StrEnum):
    """What training multiplies in; auto: bfloat16 on a CUDA device that knows it."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Tuning(StrEnum):
    """What of the language model is tuned to the log before training."""

    FROZEN = "frozen"
    LORA = "lora"
    TOP = "top"
    WHOLE = "whole"


class Release(StrEnum):
    """How a version that passed the gate comes to people."""

    EVERYONE = "everyone"
    CANARY = "canary"


class FineTuned(StrEnum):
    """What of a live version learns from a window; what is counted is renewed in any case."""

    NOTHING = "nothing"
    ITEMS = "items"
    HEADS = "heads"
    ALL = "all"


class FineTuneSettings(Section):
    """How a live version learns from a window of events."""

    part: FineTuned = Field(
        FineTuned.ALL,
        description="nothing, identities of items, those and what reads a person's state "
        "(heads), or all weights",
    )
    replay: Annotated[float, Field(ge=0)] = Field(
        12.0,
        description="earlier events learned again for each new one, drawn anew from all so far",
    )
    epochs: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    batch_windows: Annotated[int, Field(ge=1)] = Field(
        8, description="stretches of people's histories in one step"
    )
    warm_up: Share = Field(0.1, description="share of the steps before the full learning rate")
    live_share: Share = Field(
        0.5, description="of the live version's weights, in the mean of those and what was learned"
    )
    stop_share: Share = Field(
        0.1, description="of a window's new events: tells when to stop, learned with the next one"
    )
    judge_share: Share = Field(
        0.1, description="of a window's new events, the newest: kept for the gate's verdict"
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        1, description="a second one saves little time and takes a core from the stream"
    )


class TrainerSettings(Section):
    """How `temporal_llm` is built and trained."""

    width: Annotated[int, Field(ge=8, le=1024, multiple_of=4)] = 64
    layers: Annotated[int, Field(ge=2, le=12)] = Field(
        2, description="the last one reads the history for one request only"
    )
    heads: Annotated[int, Field(ge=1, le=16)] = 2
    dropout: Share = 0.2
    members: Annotated[int, Field(ge=1, le=16)] = Field(
        1,
        description="models trained alike whose scores are averaged: better, and so many times the "
        "time of training, max_seconds each; a request costs more too",
    )
    history: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="events that the model reads, the newest; default: all that a row has"
    )
    teacher: str = Field(
        "",
        description="folder of a larger version, trained on the same log: what it answers is "
        "learned as well as what people did; empty for none",
    )
    teacher_share: Share = Field(0.5, description="of the loss, what the teacher answers")
    language_model: str = Field(
        "all-MiniLM-L6-v2",
        description="reads the items' text: the default, a folder of weights, or empty for none",
    )
    factors: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="width of what is counted of who takes what"
    )
    without: frozenset[Part] = Field(
        frozenset(), description="parts of the model left out, to see what they are worth"
    )
    language_tuning: Tuning = Field(
        Tuning.FROZEN,
        description="what of it is tuned, so that items that people take together read alike: "
        "nothing, low-rank adapters of all its layers, its top layers, or everything",
    )
    language_steps: Annotated[int, Field(ge=1)] = Field(100, description="steps of tuning, at most")
    language_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="wall-clock limit of tuning"
    )
    language_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="of tuning; if not given: lora 5e-4, top 1e-4, whole 2e-5"
    )
    language_rank: Annotated[int, Field(ge=1, le=256)] = Field(8, description="of lora's adapters")
    language_layers: Annotated[int, Field(ge=1)] = Field(2, description="how many are the top")
    language_anchor: Annotated[float, Field(ge=0)] = Field(
        0.0, description="how much tuned vectors are held to the untuned ones"
    )
    identity_dropout: Share = Field(
        0.1, description="items that must do with their text, drawn anew at every step"
    )

    epochs: Annotated[int, Field(ge=1)] = 9
    max_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="wall-clock limit of the epochs; the learning rate falls to 0 by then"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        4, description="epochs without a better held-out score before training ends"
    )
    batch_windows: Annotated[int, Field(ge=1)] = Field(
        16, description="stretches of people's histories in one step"
    )
    accumulate_steps: Annotated[int, Field(ge=1)] = Field(
        1, description="batches whose gradients are joined before the weights change"
    )
    window: Annotated[int, Field(ge=2, le=1024)] = Field(
        64, description="most events that one stretch predicts"
    )
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warm_up: Share = Field(0.05, description="share of the training before the full learning rate")
    average_decay: Share = Field(
        0.998, description="the model is a moving average of the weights; 0: the newest weights"
    )
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0

    validation_share: Share = Field(
        0.05,
        description="newest part of the log: it tells when to stop and what parts of a score weigh",
    )
    min_item_events: Annotated[int, Field(ge=1)] = Field(
        1, description="items with fewer events are known by their text alone, or not at all"
    )
    unknown_share: Share = Field(
        0.015, description="history items read as unknown, so that the unknown item has a meaning"
    )
    immediate_share: Share = Field(
        0.3, description="requests trained as asked right after the last event, not at the next"
    )
    cut_share: Share = Field(
        0.5,
        description="instants of several events asked for in two parts, the second after "
        "the first, as a stream asks",
    )
    purchase_weight: Annotated[float, Field(gt=0)] = Field(
        1.0, description="how much what is bought counts in training, beside 1 for the rest"
    )
    trend_snapshot_ms: Annotated[int, Field(ge=1)] = Field(
        HOUR_MS, description="item trends are taken at the start of every such stretch of time"
    )
    tensorboard_dir: str = Field(
        "", description="folder for TensorBoard's curves, one in it for each run; empty for none"
    )
    release: Release = Field(
        Release.EVERYONE,
        description="everyone gets a version that passed the gate, or (canary) a rollout tries it "
        "out first: then windows wait for its end, and a controller has to run",
    )
    keep_versions: Annotated[int, Field(ge=2)] = Field(
        5, description="so many versions are kept; older ones are removed once a new one is live"
    )
    nice: Annotated[int, Field(ge=0, le=19)] = Field(
        0, description="of `headwater trainer`, as Unix has it: above 0, others go first"
    )
    publish_retry_s: Annotated[float, Field(ge=0)] = Field(
        60.0, description="how long a full disk, a Triton or a Kafka that is away is tried again"
    )
    device: Device = Field(Device.AUTO, description="auto, cpu or cuda")
    precision: Precision = Field(Precision.AUTO, description="auto, float32 or bfloat16")
    seed: int = 7
    threads: Annotated[int, Field(ge=1, le=256)] = 2

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TrainerSettings:
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} do not share width {self.width}: choose a width that is a "
                "multiple of heads"
            )
        return self


class GateSettings(Section):
    """What stops a version before it may leave the trainer."""

    margin: Share = Field(
        0.05, description="a version may be worse than the live one by this share of its NDCG@10"
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.9,
        description="it is stopped where it is worse than that in so many of the draws of people",
    )
    min_events: Annotated[int, Field(ge=1)] = Field(
        50, description="of fewer held-out events nothing is concluded: the version is stopped"
    )
    max_doubt: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="a window teaches nothing where the live version foresaw it worse than decayed "
        "popularity in more than this share of draws; 1: whatever comes is learned",
    )
    min_coverage: Share = Field(
        0.5, description="items that it shows to anyone, at least, as a share of the live one's"
    )
    max_growth: Annotated[float, Field(gt=1)] = Field(
        3.0, description="of any weight matrix beside the live version's, by root mean square"
    )
    max_latency_ms: Annotated[float, Field(gt=0)] = Field(
        100.0, description="median time of its graph for a batch of 32 people on one thread"
    )
    max_slowdown: Annotated[float, Field(gt=0)] = Field(
        1.5, description="the same, beside the live version's graph, in turns"
    )
