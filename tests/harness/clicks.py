"""Clicks by the second, for what goes by their times."""

from __future__ import annotations

from headwater_client.events import Click

START_S = 1_700_000_000


def click(user: str, item: str, second: int) -> Click:
    return Click(
        event_id=f"{user}{item}{second}",
        user_id=user,
        item_id=item,
        timestamp=1000 * (START_S + second),
    )
