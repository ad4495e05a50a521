"""What variants of a version are built for, and how alike they and the graph must answer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from features.settings import Section

Share = Annotated[float, Field(ge=0, le=1)]


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
        description="new versions are served in float32, or in int8, which a CPU answers sooner; "
        "one whose int8 form does not answer as it does is served in float32",
    )
    products: MatmulPrecision = Field(
        MatmulPrecision.FLOAT16,
        description="engines multiply in float32, float16, bfloat16, or int8 where that saves time "
        "and float16 elsewhere",
    )
    batch: Annotated[int, Field(ge=1, le=256)] = Field(
        64, description="people of a call that engines are fastest for; 1 to 256 are answered"
    )
    max_candidates: Annotated[int, Field(ge=1)] = Field(
        512, description="candidates of a request that engines take, at most"
    )
    max_excluded: Annotated[int, Field(ge=1)] = Field(
        4096, description="excluded items of a request that engines take, at most"
    )
    workspace_mb: Annotated[int, Field(ge=16)] = Field(
        4096, description="GPU memory that building and running an engine may take for scratch"
    )
    min_overlap: Share = Field(
        0.95, description="of the best 10 that a form must share with the graph, on average"
    )
    max_loss: Share = Field(
        0.01, description="of the graph's NDCG@10 on held-out events that a form may lose"
    )
