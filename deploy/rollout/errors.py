"""The errors of rollouts.

HeadwaterError (1)
├── CommandRejectedError   the controller, or the command line, does not carry a command out
└── FencedError            another controller leads now; nothing was written
"""

from __future__ import annotations

from headwater_client.errors import HeadwaterError


class CommandRejectedError(HeadwaterError):
    """A command cannot be carried out on this rollout."""


class FencedError(HeadwaterError):
    """Another controller leads now; what this one was about to write was not written."""
