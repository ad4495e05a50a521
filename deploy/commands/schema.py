"""`headwater schema`."""

from __future__ import annotations

import json

from features.asyncapi import make_document


def schema() -> None:
    """Print the AsyncAPI document of the topics, kept in `docs/reference/asyncapi.json`."""
    print(json.dumps(make_document(), indent=2, ensure_ascii=False))
