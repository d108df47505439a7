"""Text from outside, as a message may carry it: one short printable line without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_NAME = 512  # characters of a name that is shown; arbitrary


def one_line(text: object, limit: int = 200, *, hidden: Iterable[str | None] = ()) -> str:
    """What may be shown of a text from outside.

    Args:
        text: any value; ``str`` of it is taken.
        limit: characters; the rest is cut off.
        hidden: secrets that the text may repeat; each becomes ``***``, None is passed over.
    """
    shortened = str(text)
    for secret in filter(None, hidden):
        shortened = shortened.replace(secret, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in shortened).split())[:limit]


def reason_of(error: Exception, limit: int = 200) -> str:
    """What an error says, as :func:`one_line`; the name of its type if it says nothing.

    A password in an address, as in ``https://name:password@host``, is left out.
    """
    return re.sub(r"//[^/@\s]*@", "//", one_line(error, len(str(error))))[:limit] or type(error).__name__


def printable(name: str) -> str:
    """The name of a file, or a cell of a table: as it is if that is printable, else escaped; at most 512 characters."""
    short = name[:MAX_NAME] + "..." if len(name) > MAX_NAME else name
    return short if short.isprintable() else ascii(short)[1:-1]
