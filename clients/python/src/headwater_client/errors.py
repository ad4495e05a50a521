"""The errors that a user of Headwater can meet, and the exit code of each.

HeadwaterError (1)
├── SettingsError (2)      a setting is wrong, or one is missing
├── ServerError (3)        Kafka, the store or Triton cannot be had or does not answer
├── DataError (4)          a file of events or items is missing or cannot be read
└── EventError (5)         one message breaks the event contract (features.events)

A message names the field, the value and the remedy, on one line.
"""

from __future__ import annotations


class HeadwaterError(Exception):
    """The root of the family: the command line prints it as one line, without a stack trace."""

    exit_code = 1


class SettingsError(HeadwaterError):
    """A setting is wrong, or one is missing."""

    exit_code = 2


class ServerError(HeadwaterError):
    """A server cannot be had, died, or does not answer."""

    exit_code = 3


class DataError(HeadwaterError):
    """A file of events or items is missing or cannot be read."""

    exit_code = 4
