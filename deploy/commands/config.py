"""`headwater config`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy import settings_text
from deploy.settings import Settings, load_settings
from deploy.settings_reference import render_reference

Reference = Annotated[
    bool, typer.Option("--reference", help="print docs/reference/settings.md: all settings")
]


def config(reference: Reference = False) -> None:
    """Print the effective settings as TOML, secrets masked."""
    text = render_reference(Settings) if reference else settings_text.toml(load_settings())
    print(text, end="")
