"""Templates, and how they show numbers, times and links.

A number stands in `<data value>`, a time in `<time datetime>`: whole, whatever a reader is shown.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from headwater_client import encode
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HOUSE = Path(__file__).parent
NOTHING = Markup("-")
log = structlog.get_logger()


def make_templates(pages: Sequence[Any]) -> Environment:
    """The templates. Whatever a text holds, it is shown as text.

    Args:
        pages: those that the navigation may list.
    """
    templates = Environment(
        loader=FileSystemLoader(HOUSE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= {
        "figure": figure,
        "percent": percent,
        "moment": moment,
        "document": format_document,
    }
    templates.globals |= {
        "listed": [page for page in pages if page.is_listed],
        "modules": _list_modules(),
        "link": link,
    }
    return templates


def _list_modules() -> Collection[str]:
    return {path.stem for path in (HOUSE / "static").glob("*.js")}


def figure(value: float | None, digits: int = 0) -> Markup:
    """A number.

    >>> str(figure(1234.5, 1)), str(figure(None))
    ('<data value="1234.5">1,234.5</data>', '-')
    """
    if value is None:
        return NOTHING
    return Markup('<data value="{}">{}</data>').format(value, f"{value:,.{digits}f}")


def percent(share: float | None, digits: int = 1) -> Markup:
    """A share as percent.

    >>> str(percent(0.125))
    '<data value="0.125">12.5 %</data>'
    """
    if share is None:
        return NOTHING
    return Markup('<data value="{}">{} %</data>').format(share, f"{share:.{digits}%}"[:-1])


def moment(time_ms: int | None) -> Markup:
    """A time, UTC.

    >>> str(moment(1_764_000_000_123))
    '<time datetime="2025-11-24T16:00:00.123Z">2025-11-24 16:00:00</time>'
    """
    if time_ms is None:
        return NOTHING
    try:
        at = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        # What a hostile message claims need not be a time.
        return Markup("{} ms").format(time_ms)
    exact = f"{at:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
    return Markup('<time datetime="{}">{}</time>').format(exact, f"{at:%Y-%m-%d %H:%M:%S}")


def format_document(value: Any) -> str:
    """What a struct is as JSON, to be read by people.

    >>> format_document([])
    '[]'
    """
    return msgspec.json.format(encode(value), indent=2).decode()


def link(room: str, name: str) -> str:
    """The path of a page about one thing, whatever it is called.

    >>> link("items", "a/b?c"), link("items", "..")
    ('/items/a%2Fb%3Fc', '/items?id=..')
    """
    if set(name) <= {"."}:
        # A browser takes these in a path for folders.
        return f"/{room}?id={name}"
    return f"/{room}/{quote(name, safe='', errors='surrogatepass')}"
