"""What can go wrong for the person at the keyboard.

LocalError
├── DownloadError    an artifact could not be fetched, or is not what was pinned
├── PortInUseError   somebody else listens where a part must
└── PartError        a part did not start, stopped, or never became ready
"""

from __future__ import annotations


class LocalError(Exception):
    """An expected failure: its text says what happened and what to do next; no traceback is shown."""


class DownloadError(LocalError):
    pass


class PortInUseError(LocalError):
    pass


class PartError(LocalError):
    pass
