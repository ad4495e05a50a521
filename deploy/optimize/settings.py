"""What variants of a version are built for, and how alike they and the graph must answer."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from features.settings import Fraction, Section


class MatmulPrecision(StrEnum):
    """The type in which an engine multiplies matrices; all else stays float32."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class ServedPrecision(StrEnum):
    """The precisions in which a new version can be served on a CPU."""

    FLOAT32 = "float32"
    INT8 = "int8"


class OptimizeSettings(Section):
    """What new versions are served in, what engines are built for, and the parity gate's limits."""

    serve: ServedPrecision = Field(
        ServedPrecision.FLOAT32,
        description="new versions are served in float32, or in int8, which is faster on a CPU; a "
        "version whose int8 form answers differently is served in float32",
    )
    products: MatmulPrecision = Field(
        MatmulPrecision.FLOAT16,
        description="engines multiply in float32, float16, bfloat16, or int8 where that saves "
        "time and float16 elsewhere",
    )
    batch: Annotated[int, Field(ge=1, le=256)] = Field(
        64,
        description="people in a call that engines are built to be fastest for; calls of 1 to "
        "256 are answered",
    )
    max_candidates: Annotated[int, Field(ge=1)] = Field(
        512, description="candidate items of a request that engines take, at most"
    )
    max_excluded: Annotated[int, Field(ge=1)] = Field(
        4096, description="excluded items of a request that engines take, at most"
    )
    workspace_mb: Annotated[int, Field(ge=16)] = Field(
        4096,
        description="GPU memory for intermediate results while an engine is built and runs, in MB",
    )
    min_overlap: Fraction = Field(
        0.95,
        description="parity gate: fraction of the ten best items that an optimised form must "
        "share with the original graph, on average",
    )
    max_loss: Fraction = Field(
        0.01,
        description="parity gate: fraction of the graph's NDCG@10 on held-out events that an "
        "optimised form may lose",
    )
