"""Settings of training: the size of the model, how it learns, and what stops a version."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from features.settings import HOUR_MS, Fraction, HalfOpenFraction, Section


class Device(StrEnum):
    """Where training computes; auto: on CUDA where there is a device."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class ModelPart(StrEnum):
    """A part of the model that it can do without."""

    TIME = "time"
    TEXT = "text"
    IDENTITY = "identity"
    COOCCURRENCE = "cooccurrence"
    DECAY = "decay"


class Precision(StrEnum):
    """Number format of training's matrix products; auto: bfloat16 on a CUDA device that has it."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class TuningMode(StrEnum):
    """What of the language model is tuned to the log before training."""

    FROZEN = "frozen"
    LORA = "lora"
    TOP = "top"
    WHOLE = "whole"


class Release(StrEnum):
    """How a version that passed the gate gets traffic."""

    EVERYONE = "everyone"
    CANARY = "canary"


class FineTuneScope(StrEnum):
    """Which weights of a live version learn from a window; co-occurrence is renewed in any case."""

    NOTHING = "nothing"
    ITEMS = "items"
    HEADS = "heads"
    ALL = "all"


class FineTuneSettings(Section):
    """How a live version learns from a window of events."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "batch_windows": "batch_size",
        "warm_up": "warmup_ratio",
        "live_share": "live_fraction",
        "stop_share": "early_stopping_fraction",
        "judge_share": "gate_fraction",
    }
    REMOVED: ClassVar[Mapping[str, str]] = {
        "anchor": "what was learned is averaged with the live version: set fine_tune.live_fraction"
    }

    part: FineTuneScope = Field(
        FineTuneScope.ALL,
        description="weights that learn: nothing; items: identities of items; heads: those and "
        "what reads a person's state; or all",
    )
    replay: Annotated[float, Field(ge=0)] = Field(
        12.0,
        description="earlier events learned again for each new one, a random sample of all so far",
    )
    epochs: Annotated[int, Field(ge=1)] = Field(
        1, description="passes over a window's events and the earlier ones drawn with them, at most"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        2e-3, description="step size of AdamW at its highest"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(
        8, description="sequences in one step: segments of people's histories"
    )
    warmup_ratio: HalfOpenFraction = Field(
        0.1, description="fraction of the steps before the full learning rate"
    )
    live_fraction: HalfOpenFraction = Field(
        0.5,
        description="the next version's weights are the mean of the live version's and those "
        "that were learned; fraction of the live version's in it",
    )
    early_stopping_fraction: HalfOpenFraction = Field(
        0.1,
        description="fraction of a window's new events that decide when to stop; they are "
        "learned with the next window",
    )
    gate_fraction: HalfOpenFraction = Field(
        0.1, description="fraction of a window's new events, the newest, held out for the gate"
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        1,
        description="CPU threads; a second one saves little time and takes a core from the stream",
    )


class TrainerSettings(Section):
    """How `temporal_llm` is built and trained."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "members": "ensemble_size",
        "teacher_share": "distillation_weight",
        "without": "ablate",
        "language_steps": "language_max_steps",
        "language_seconds": "language_max_seconds",
        "language_rank": "language_lora_rank",
        "language_layers": "language_top_layers",
        "language_anchor": "language_anchor_weight",
        "batch_windows": "batch_size",
        "accumulate_steps": "gradient_accumulation_steps",
        "window": "max_targets_per_sequence",
        "warm_up": "warmup_ratio",
        "average_decay": "ema_decay",
        "gradient_clip": "max_grad_norm",
        "validation_share": "validation_fraction",
        "unknown_share": "unknown_item_fraction",
        "immediate_share": "immediate_request_fraction",
        "cut_share": "split_tie_fraction",
        "purchase_weight": "purchase_loss_weight",
    }
    REMOVED: ClassVar[Mapping[str, str]] = {
        "generations": "train a version, name its folder in trainer.teacher, and train again",
        "orders": "events of the same instant are trained on as the stream asks: "
        "see trainer.split_tie_fraction",
    }

    width: Annotated[int, Field(ge=8, le=1024, multiple_of=4)] = Field(
        64, description="width of the transformer, a multiple of heads"
    )
    layers: Annotated[int, Field(ge=2, le=12)] = Field(
        2, description="transformer layers; the last one reads the history for one request only"
    )
    heads: Annotated[int, Field(ge=1, le=16)] = Field(2, description="attention heads of a layer")
    dropout: HalfOpenFraction = Field(0.2, description="dropout of the transformer in training")
    ensemble_size: Annotated[int, Field(ge=1, le=16)] = Field(
        1,
        description="models trained alike whose scores are averaged: better, and as many times "
        "the time of training, max_seconds each; a request costs more too",
    )
    history: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="newest events that the model reads; default: all that a row has"
    )
    teacher: str = Field(
        "",
        description="folder of a larger version, trained on the same log, whose answers are "
        "learned as well as what people did; empty: none",
    )
    distillation_weight: HalfOpenFraction = Field(
        0.5, description="weight of the distillation loss where there is a teacher, 0 to 1"
    )
    language_model: str = Field(
        "all-MiniLM-L6-v2",
        description="language model that encodes the items' text: the default, a folder of "
        "weights, NAME@COMMIT of the hub, or empty for none",
    )
    factors: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="width of the factors that hold which people take which items"
    )
    ablate: frozenset[ModelPart] = Field(
        frozenset(), description="parts of the model left out, to see what each is worth"
    )
    language_tuning: TuningMode = Field(
        TuningMode.FROZEN,
        description="which weights of the language model are tuned, so that items that people "
        "take together get similar embeddings: none (frozen), low-rank adapters of all layers "
        "(lora), the top layers (top), or all (whole)",
    )
    language_max_steps: Annotated[int, Field(ge=1)] = Field(
        100, description="steps of tuning the language model, at most"
    )
    language_max_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="wall-clock limit of tuning the language model, in seconds"
    )
    language_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="learning rate of tuning the language model; default: 5e-4 for lora, 1e-4 "
        "for top, 2e-5 for whole",
    )
    language_lora_rank: Annotated[int, Field(ge=1, le=256)] = Field(
        8, description="rank of the low-rank adapters of language_tuning lora"
    )
    language_top_layers: Annotated[int, Field(ge=1)] = Field(
        2, description="number of top layers that language_tuning top tunes"
    )
    language_anchor_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the loss that holds tuned embeddings near the untuned ones"
    )
    identity_dropout: HalfOpenFraction = Field(
        0.1,
        description="fraction of items known by their text alone in a step, drawn anew each step",
    )

    epochs: Annotated[int, Field(ge=1)] = Field(9, description="passes over the log, at most")
    max_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0,
        description="wall-clock limit of the epochs, in seconds; the learning rate falls to 0 by "
        "then",
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        4, description="epochs without a better held-out score before training ends"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(
        16, description="sequences in one batch: segments of people's histories"
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = Field(
        1, description="batches whose gradients are summed before the weights change"
    )
    max_targets_per_sequence: Annotated[int, Field(ge=2, le=1024)] = Field(
        64, description="events that one sequence predicts, at most"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        2e-3, description="step size of AdamW at its highest"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.01, description="decoupled weight decay of AdamW"
    )
    warmup_ratio: HalfOpenFraction = Field(
        0.05, description="fraction of the training before the full learning rate"
    )
    ema_decay: HalfOpenFraction = Field(
        0.998,
        description="decay of the exponential moving average of the weights, which is what is "
        "kept; 0: the newest weights",
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="gradients are scaled down to this norm"
    )

    validation_fraction: HalfOpenFraction = Field(
        0.05,
        description="newest fraction of the log, held out to decide when to stop and how much "
        "each part of a score weighs",
    )
    min_item_events: Annotated[int, Field(ge=1)] = Field(
        1, description="items with fewer events are known by their text alone, or not at all"
    )
    unknown_item_fraction: HalfOpenFraction = Field(
        0.015,
        description="fraction of history items replaced by the unknown item, so that it is learned",
    )
    immediate_request_fraction: HalfOpenFraction = Field(
        0.3,
        description="fraction of requests trained as made right after the last event, not at the "
        "time of the next",
    )
    split_tie_fraction: HalfOpenFraction = Field(
        0.5,
        description="fraction of events of one instant that are asked for in two parts, the "
        "second after the first, as a stream asks",
    )
    purchase_loss_weight: Annotated[float, Field(gt=0)] = Field(
        1.0, description="weight of a purchase in the loss; a click is 1"
    )
    trend_snapshot_ms: Annotated[int, Field(ge=1)] = Field(
        HOUR_MS,
        description="training sees item trends as of the last whole multiple of this, in "
        "milliseconds",
    )
    tensorboard_dir: str = Field(
        "",
        description="folder for TensorBoard's curves, with a folder for each run; empty: no curves",
    )
    release: Release = Field(
        Release.EVERYONE,
        description="everyone: a version that passed the gate gets all traffic; canary: a "
        "rollout tries it out first. Then windows wait for its end, and a controller has to run",
    )
    keep_versions: Annotated[int, Field(ge=2)] = Field(
        5, description="versions that are kept; older ones are removed once a new one is live"
    )
    nice: Annotated[int, Field(ge=0, le=19)] = Field(
        0, description="Unix niceness of `headwater trainer`; above 0, other processes go first"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0,
        description="port where Prometheus reads the metrics of `headwater trainer`, or of "
        "`headwater windows write`, and probes its health; 0: nowhere",
    )
    metrics_address: str = Field(
        "127.0.0.1", description="network interface of metrics_port; 0.0.0.0: all of them"
    )
    publish_retry_s: Annotated[float, Field(ge=0)] = Field(
        60.0,
        description="how long publishing is tried again while the disk is full or Triton or "
        "Kafka is away, in seconds",
    )
    device: Device = Field(
        Device.AUTO, description="where training computes; auto: on CUDA where there is a device"
    )
    precision: Precision = Field(
        Precision.AUTO,
        description="number format of training's matrix products; auto: bfloat16 on a CUDA "
        "device that has it",
    )
    seed: int = Field(7, description="seed of all that is random in training")
    threads: Annotated[int, Field(ge=1, le=256)] = Field(2, description="CPU threads of training")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "TrainerSettings":
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} do not share width {self.width}: choose a width that is a "
                "multiple of heads"
            )
        return self


class GateSettings(Section):
    """What stops a version before it may leave the trainer."""

    margin: HalfOpenFraction = Field(
        0.05,
        description="a version may be worse than the live one by this fraction of its NDCG@10",
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.9,
        description="a version is rejected where it is worse than margin allows in at least this "
        "fraction of bootstrap draws of people",
    )
    min_events: Annotated[int, Field(ge=1)] = Field(
        50, description="minimum number of held-out events; with fewer, the version is rejected"
    )
    max_doubt: Fraction = Field(
        0.1,
        description="a window is not learned where the live version predicted it worse than "
        "decayed popularity in more than this fraction of bootstrap draws; 1: every window is "
        "learned",
    )
    min_coverage: HalfOpenFraction = Field(
        0.5,
        description="different items that a version shows, as a fraction of the live one's, at "
        "least",
    )
    max_growth: Annotated[float, Field(gt=1)] = Field(
        3.0,
        description="root mean square of any weight matrix, as a multiple of the live version's, "
        "at most",
    )
    max_latency_ms: Annotated[float, Field(gt=0)] = Field(
        100.0,
        description="median time of the graph for a batch of 32 people on one thread, in "
        "milliseconds, at most",
    )
    max_slowdown: Annotated[float, Field(gt=0)] = Field(
        1.5,
        description="the same time as a multiple of the live version's, measured in turns, at most",
    )
