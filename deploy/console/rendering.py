"""Templates, and how they show numbers, times and links.

A number stands in `<data value>`, a time in `<time datetime>`: whole, whatever a reader is shown.
"""

import math
import re
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

from features.events import current_ms

HOUSE = Path(__file__).parent
NOTHING = Markup("-")
CLOCK = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?")
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
        "gain": gain,
        "more": describe_more,
        "moment": moment,
        "duration": duration,
        "clock": write_clock,
        "document": format_document,
    }
    templates.globals |= {
        "listed": [page for page in pages if page.is_listed],
        "modules": _list_modules(),
        "link": link,
        "current_ms": current_ms,
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


def gain(ratio_log: float | None, digits: int = 1) -> Markup:
    """The logarithm of a ratio as what is more, or less, in percent.

    >>> str(gain(math.log(1.25))), str(gain(None))
    ('<data value="0.25">+25.0 %</data>', '-')
    """
    if ratio_log is None:
        return NOTHING
    change = round(math.expm1(ratio_log), 12)
    return Markup('<data value="{}">{} %</data>').format(change, f"{change:+.{digits}%}"[:-1])


def describe_more(ratio_log: float, digits: int = 1) -> Markup:
    """The same in words.

    >>> str(describe_more(math.log(0.9))), str(describe_more(0.0))
    ('<data value="-0.1">10.0 % less</data>', '<data value="0.0">as much</data>')
    """
    change = round(math.expm1(ratio_log), 12)
    words = f"{f'{abs(change):.{digits}%}'[:-1]} % {'more' if change > 0 else 'less'}"
    return Markup('<data value="{}">{}</data>').format(change, words if change else "as much")


def duration(span_ms: float) -> Markup:
    """How long something takes, in the unit that people would take.

    >>> [str(duration(each)) for each in (1500, 3 * 86_400_000)]
    ['<data value="1.5">1.5 s</data>', '<data value="259200.0">3.0 d</data>']
    """
    sizes = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
    unit, size = next((each for each in sizes if abs(span_ms) >= each[1]), sizes[-1])
    text = f"{span_ms / size:,.1f} {unit}"
    return Markup('<data value="{}">{}</data>').format(span_ms / 1000, text)


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


def write_clock(given: str) -> str:
    """A time in a query, in milliseconds, as a browser's field for times takes it; UTC.

    >>> write_clock("1764000000123"), write_clock("2025-11-24T16:00"), write_clock("1e9")
    ('2025-11-24T16:00:00', '2025-11-24T16:00', '')
    """
    if not given.isascii() or not given.isdecimal():
        return given if CLOCK.fullmatch(given) else ""
    try:
        return f"{datetime.fromtimestamp(int(given) / 1000, UTC):%Y-%m-%dT%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return ""


def read_clock(given: str) -> str:
    """What such a field sends, in milliseconds; anything else as it is.

    >>> read_clock("2025-11-24T16:00"), read_clock("2025-13-24T16:00"), read_clock("7")
    ('1764000000000', '2025-13-24T16:00', '7')
    """
    if not CLOCK.fullmatch(given):
        return given
    try:
        return str(int(datetime.fromisoformat(given).replace(tzinfo=UTC).timestamp() * 1000))
    except ValueError:
        return given


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
