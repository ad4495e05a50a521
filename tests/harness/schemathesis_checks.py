"""What schemathesis holds the service to besides its own checks: it loads this file by its name."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

# What makes a request impossible though the document allows it: no schema can say these.
REASONS = (
    "is in the future",
    "expected a time since",
    "is after the event's own timestamp",
    "the person of the request",
    "where this person's events are",
    "is required with",
    "another id than the (person|guest)'s",
    # A placement or a segment that nobody has made.
    "headwater (placements|segments) put",
    "expected a cursor of an answer",
    # An attribute that no item has, and two pins of one place.
    "no item has it",
    "another pin has it already",
    # Which ids stand for nobody the settings say.
    r"by events\.nobody",
    # To JSON Schema 7.0 is an integer.
    r"Expected `int( \| null)?`, got `float`",
)


@schemathesis.check
def refused_for_what_no_schema_says(_: Any, response: Any, case: Any) -> None:
    """A request that the document allows is refused only for what no document can say."""
    if response.status_code != 400 or case.meta is None or case.meta.generation.mode.is_negative:
        return
    problem = response.json()
    for each in problem.get("errors") or [problem]:
        # What is wrong in an expression is said at its column.
        assert "column" in each or any(re.search(reason, each["remedy"]) for reason in REASONS), (
            each
        )


@schemathesis.check
def a_refusal_says_what_to_do(_: Any, response: Any, case: Any) -> None:
    """Each problem has what a caller needs, and no trace."""
    if response.status_code < 400 or case.method == "HEAD":
        return
    problem = response.json()
    assert problem["status"] == response.status_code
    assert "Traceback" not in response.text
    if response.status_code == 400:
        for each in problem.get("errors") or [problem]:
            assert each["field"], each
            assert each["remedy"], each
