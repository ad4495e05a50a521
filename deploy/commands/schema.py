"""`headwater schema`."""

from __future__ import annotations


def schema() -> None:
    """Print the AsyncAPI document of the topics; `docs/asyncapi.json` is kept equal to it."""
    import json

    from features.asyncapi import document

    print(json.dumps(document(), indent=2, ensure_ascii=False))
