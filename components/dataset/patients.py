"""Telling patients by a user's regular expression, see ``--patient-pattern``.

The pattern is the user's and trusted. The names that it searches are not: one made for the pattern could keep Python's ``re``
busy for years. So another process searches, with a limit of processor time for each name.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable

from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable
from medmark.components.dataset.items import Item

MAX_PATTERN = 200  # ours: characters
SECONDS = 1.0  # ours: of processor time for one name
MAX_LATE = 10  # ours: names on which the pattern may take longer
_SEARCH = """
import json, re, signal, sys

def late(*_):
    raise TimeoutError

signal.signal(signal.SIGVTALRM, late)
given = json.load(sys.stdin)
pattern, found, left = re.compile(given["pattern"]), [], given["late"]
for name in given["names"]:
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, given["seconds"])
        match = pattern.search(name)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        found.append([match and match.group(1)])
    except TimeoutError:
        found.append([])
        left -= 1
        if not left:
            break
json.dump(found, sys.stdout)
"""


def check_pattern(pattern: str) -> None:
    """Refuses a pattern that cannot tell patients.

    Raises:
        MedmarkError: too long, not a regular expression, or without a group.
    """
    if len(pattern) > MAX_PATTERN or not pattern.isprintable():
        raise MedmarkError(
            f"patient pattern too long or not printable: {printable(pattern[:MAX_PATTERN])!r}; use at most {MAX_PATTERN} characters"
        )
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise MedmarkError(f"patient pattern is no regular expression: {pattern!r} ({error}); correct it") from error
    if groups == 0:
        raise MedmarkError(f"patient pattern without a group: {pattern!r}; put the patient's part in ( and )")


def name_patients(items: Iterable[Item], pattern: str) -> None:
    """Replaces each item's patient by what the pattern's first group finds in the item's name.

    An item whose name does not match gets a problem; an item that has one already is left as it is.

    Args:
        items: to change.
        pattern: regular expression that :func:`check_pattern` accepts.

    Raises:
        MedmarkError: the pattern takes too long on too many names.
    """
    usable = [item for item in items if item.problem is None]
    rule = f"the first group of the pattern {pattern!r}"
    for item, found in zip(usable, _search(pattern, [item.name for item in usable]), strict=True):
        item.patient, item.rule = (found[0] if found else None) or None, rule
        if not found:
            item.problem = f"patient pattern takes too long: {pattern!r} on {item.name}; simplify it or rename the file"
        elif item.patient is None:
            item.problem = f"no patient: {pattern!r} finds none in {item.name}; correct the pattern or rename the file"


def _search(pattern: str, names: list[str]) -> list[list[str | None]]:
    """Searches every name: a list with the first group or None, or an empty one where it took too long."""
    given = {"pattern": pattern, "names": names, "seconds": SECONDS, "late": MAX_LATE}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _SEARCH],
        input=json.dumps(given).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    if len(found) < len(names):
        raise MedmarkError(
            f"patient pattern takes too long: {pattern!r} on {names[len(found) - 1]} and {MAX_LATE - 1} others; simplify it, a"
            " repeat within a repeat is slow"
        )
    return found
