"""The list in docs/architecture.md of which file holds what."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = (ROOT / "docs" / "architecture.md").read_text().partition("## Where to look")[2]
ROWS = re.findall(r"^\| (.+?) \| `([^`|]+)` \| `([^`|]+)` \|$", LIST, re.M)


def test_the_list_is_read_whole():
    assert len(ROWS) == LIST.count("\n| ") - 1 >= 20


@pytest.mark.parametrize(("subject", "file", "words"), ROWS)
def test_the_file_is_there_and_has_the_words(subject, file, words):
    path = ROOT / file
    assert path.is_file(), f"{subject} has moved: say where to in docs/architecture.md"
    assert words.lower() in path.read_text().lower(), f"{words} is not in {file}: say where {subject} is now"
