"""`headwater config`."""

from __future__ import annotations


def config() -> None:
    """Print the effective settings as TOML, secrets masked."""
    from deploy import settings_text
    from deploy.settings import load_settings

    print(settings_text.toml(load_settings()), end="")
