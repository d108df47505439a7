"""Documentation that leads somewhere: every link in every Markdown file, and the pages that MkDocs shows."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"build", "dist", "node_modules", "out", "venv"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")

NAMED = re.compile(r"`((?:benchmarks|components|docs|pipelines|tests)/[\w./-]*\w)?/?(?:::(\w+))?`")


@cache
def prose(page: Path) -> str:
    """The text of a page without code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()#]", "", code[0]), text)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, spelled as GitHub and MkDocs do.

    The two agree on headings of words, hyphens and single spaces. A heading that they spell differently has no anchor here, so a
    link to it fails.
    """
    found = set()
    for title in re.findall(r"^#+ +(.+?) *#*$", prose(page), re.M):
        kept = re.sub(r"[^\w\- ]", "", title.replace("`", "")).strip().lower()
        github, mkdocs = kept.replace(" ", "-"), re.sub(r"[-\s]+", "-", kept)
        if github == mkdocs and github.isascii():
            found.add(github)
    return found


def dead(page: Path, root: Path = ROOT) -> list[str]:
    """The links of a page that lead to no file below ``root``, or to no heading in it."""
    found = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.exists() and target.is_relative_to(root) and not name.startswith("/")
        if not there or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


def test_every_page_is_looked_at():
    names = {path.relative_to(ROOT).as_posix() for path in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "components/dataset/README.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert dead(page) == []


def test_dead_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\n[a](#a-title) [b](#b) [c](gone.md) [d](/etc/passwd) `[e](code)` [f](https://example.org/#x)\n"
    )
    assert dead(page, tmp_path) == ["#b", "gone.md", "/etc/passwd"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    gone, file = [], page
    for name, test in NAMED.findall(page.read_text(encoding="utf-8")):
        file = ROOT / name if name else file  # '::test_something' alone is in the file before
        if "NAME" not in name and not file.exists():
            gone.append(name)
        elif test and f"def {test}(" not in file.read_text(encoding="utf-8"):
            gone.append(f"{file.relative_to(ROOT)}::{test}")
    assert gone == []


def test_every_room_lists_its_files():
    for room in sorted(path.parent for path in (ROOT / "components").glob("*/__init__.py")):
        there = {path.name for path in room.iterdir() if path.suffix in (".py", ".j2")} - {"__init__.py"}
        told = set(re.findall(r"`([\w.]+\.(?:py|j2))`", (room / "README.md").read_text(encoding="utf-8")))
        assert there <= told, room.name


def test_every_room_has_a_page_in_the_index():
    rooms = {path.parent.name for path in (ROOT / "components").glob("*/__init__.py")}
    shown = set(re.findall(r"\.\./components/(\w+)/README\.md", (ROOT / "docs" / "index.md").read_text()))
    assert shown == rooms


def test_mkdocs_shows_every_page():
    def pages(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    shown = set(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert shown == {path.relative_to(ROOT).as_posix() for path in PAGES} - {"CHANGELOG.md"}
