"""Shows people what :func:`medmark.components.lineage.chain.verify_chain` found: a tree for the terminal, and a page with a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medmark.components.base.digests import HEX
from medmark.components.base.html import environment
from medmark.components.lineage.chain import BROKEN
from rich.text import Text
from rich.tree import Tree

MAX_DRAWN = 100  # newest releases in the picture and the tree; arbitrary
SHOWN_STEPS = 4  # named in the picture; arbitrary
ROW, BOX = 140, 84  # height of a row and of its boxes in the picture
DROP, CLEAN, RELEASE, COMMITMENT = (0, 190), (262, 168), (502, 258), (812, 188)  # left edge and width
OF_COMMITMENT = ("commitment", "timestamp")


def lineage_tree(result: dict) -> Tree:
    """A branch a release, the first one first; what is broken is red.

    Args:
        result: of ``verify_chain``.
    """
    tree = Tree(Text(_headline(result)[1], style="bold"))
    releases = result["releases"][-MAX_DRAWN:]
    if len(releases) < len(result["releases"]):
        tree.add(Text(f"{len(result['releases']) - len(releases)} older releases", style="dim"))
    for release in releases:
        wrong = _broken(result, release)
        branch = tree.add(Text(_title(release), style="bold red" if wrong else "bold"))
        for line in _facts(release):
            branch.add(Text(line))
        for found in wrong:
            branch.add(Text(_short_digests(found["says"]), style="red"))
    return tree


def write_lineage_report(out_html: str | Path, result: dict) -> None:
    """Writes one HTML file that opens without a network; it tells nothing that is not public.

    Names come from outside: all text is escaped, and the page forbids the browser to load anything.

    Args:
        out_html: file to write.
        result: of ``verify_chain``.
    """
    tone, headline = _headline(result)
    releases = result["releases"][-MAX_DRAWN:]
    html = (
        environment("medmark.components.lineage")
        .get_template("lineage.html.j2")
        .render(
            result=result,
            what=_what(releases[-1]),
            tone=tone,
            headline=headline,
            releases=[release | {"title": _title(release), "facts": _facts(release)} for release in reversed(releases)],
            older=len(result["releases"]) - len(releases),
            wrong=[_short_digests(found["says"]) for found in result["objects"] if found["status"] == BROKEN],
            picture=picture(result | {"releases": releases}),
        )
    )
    Path(out_html).write_text(html, encoding="utf-8")


@dataclass
class _Row:
    """The row of one release in the picture; boxes and arrows of all rows go into the same lists."""

    top: int
    boxes: list[dict]
    arrows: list[dict]

    def box(self, column: tuple[int, int], kind: str, lines: list[str], broken: bool) -> None:
        x, width = column
        box = {"x": x, "y": self.top, "width": width, "height": BOX, "kind": kind, "lines": lines, "broken": broken}
        self.boxes.append(box)

    def arrow(self, start: tuple[int, int], end: tuple[int, int], label: str, kind: str, broken: bool) -> None:
        left, right, y = sum(start), end[0], self.top + BOX / 2
        points = f"{left},{y} {right - 2},{y}"
        self._add(points, (left + right) / 2, y - 7, label, kind, broken)

    def arrow_from_above(self, label: str, broken: bool) -> None:
        x = RELEASE[0] + RELEASE[1] / 2
        points = f"{x},{self.top - ROW + BOX} {x},{self.top - 2}"
        self._add(points, x + 10, self.top - (ROW - BOX) / 2 + 4, label, "next", broken)

    def _add(self, points: str, x: float, y: float, label: str, kind: str, broken: bool) -> None:
        self.arrows.append({"points": points, "x": x, "y": y, "label": label, "kind": kind, "broken": broken})


def picture(result: dict) -> dict:
    """Lays out the boxes and arrows of the picture.

    Args:
        result: what ``verify_chain`` returned.

    Returns:
        ``width`` and ``height``; ``boxes``: ``x``, ``y``, ``width``, ``height``, ``kind``, ``lines`` of text, ``broken``;
        ``arrows``: ``points`` as SVG writes them, ``label`` at ``x`` and ``y``, ``broken``, ``kind``. Lengths are in pixels.
    """
    boxes: list[dict] = []
    arrows: list[dict] = []
    before = False  # whether the release before is broken
    for number, release in enumerate(result["releases"]):
        row = _Row(8 + number * ROW, boxes, arrows)
        kinds = {found["kind"] for found in _broken(result, release)}
        itself = bool(kinds - {*OF_COMMITMENT, "raw", "clean"})
        row.box(RELEASE, "release", _release_lines(release), itself)
        if release["record"] is not None:
            _draw_origin(row, release, kinds)
        if release["commitment_sha256"] is not None:
            _draw_commitment(row, release, bool(kinds & set(OF_COMMITMENT)))
        if number:
            row.arrow_from_above(_changes(release) if release["changes"] else "", itself or before)
        before = itself
    return {"width": 1000, "height": 16 + len(result["releases"]) * ROW - (ROW - BOX), "boxes": boxes, "arrows": arrows}


def _draw_origin(row: _Row, release: dict, broken: set[str]) -> None:
    """Draws the raw drop and, of a first release, the clean one; ``broken`` are the kinds of what is broken."""
    drop, names = release["record"]["drop"], [step["name"] for step in release["record"]["steps"]]
    files = "" if drop["files"] is None else _count(drop["files"], "file")
    lines = ["raw drop", files, _short(drop["digest"])]
    if release["changes"] is None:
        parent = _short(release["record"]["parent_digest"])
        row.box(DROP, "drop", lines, "raw" in broken)
        row.box(CLEAN, "clean", [_before(release), "private", parent], "clean" in broken)
        row.arrow(DROP, CLEAN, names[0], "step", "raw" in broken)
        row.arrow(CLEAN, RELEASE, _count(len(names) - 1, "step"), "step", "clean" in broken)
    else:
        row.box(DROP, "drop", lines, False)
        shown = ", ".join(names[:SHOWN_STEPS]) + (", ..." if len(names) > SHOWN_STEPS else "")
        row.arrow(DROP, RELEASE, shown, "step", False)


def _draw_commitment(row: _Row, release: dict, broken: bool) -> None:
    when = release["timestamp"] or release["committed_at"]
    if release["timestamp"]:
        stamped = "stamped by an authority"
    else:
        stamped = "time as the signer says" if when else "time not checked"
    row.box(COMMITMENT, "commitment", ["commitment", stamped, when or "", _short(release["commitment_sha256"])], broken)
    row.arrow(RELEASE, COMMITMENT, "", "names", broken)


def _headline(result: dict) -> tuple[str, str]:
    count = len(result["releases"])
    if result["broken"] is not None:
        return "bad", "The chain is broken"
    if not result["holds"]:
        return "open", "Nothing is broken, but signatures were not checked"
    return "good", f"All {count} releases hold" if count > 1 else f"The {_what(result['releases'][0])} holds"


def _broken(result: dict, release: dict) -> list[dict]:
    """What is broken about a release; raw files and the clean release belong to the first one."""
    first = release is result["releases"][0]
    return [
        found
        for found in result["objects"]
        if found["status"] == BROKEN
        and (found["path"].partition("/")[0] == release["path"] or (first and found["kind"] in ("raw", "clean")))
    ]


def _title(release: dict) -> str:
    if release["digest"] is None:
        return f"release {_short(release['path'])}: missing or unreadable"
    return f"{release['name']} {release['version']}, {_size(release)}, {_short(release['digest'])}"


def _facts(release: dict) -> list[str]:
    """What a release says of itself, a line each."""
    record, lines = release["record"], []
    if record is not None:
        drop = record["drop"]
        files = "" if drop["files"] is None else f", {_count(drop['files'], 'file')}"
        before = _before(release) if release["changes"] is None else "release"
        lines += [
            f"from: raw drop {_short(drop['digest'])}{files}; {before} {_short(record['parent_digest'])}",
            f"steps: {', '.join(step['name'] for step in record['steps'])}",
            f"verdict of the run: {record['verdict']}",
        ]
    if release["changes"] is not None:
        lines.append(f"changes: {_changes(release)}; withdrawn so far {release['changes']['tombstones']}")
    if release["signed_by"] is not None:
        lines.append(f"signed: key {_short(release['signed_by'])}, {release['signed_at']} as the signer says")
    if release["commitment_sha256"] is not None:
        when = (
            f"stamped {release['timestamp']}" if release["timestamp"] else f"{release['committed_at'] or 'not checked'}"
        )
        lines.append(f"commitment: {_short(release['commitment_sha256'])}, {when}")
    return lines


def _release_lines(release: dict) -> list[str]:
    if release["digest"] is None:
        return ["missing or unreadable", _short(release["path"])]
    signed = f"signed by {_short(release['signed_by'])}" if release["signed_by"] else "not signed"
    verdict = f", {release['record']['verdict']}" if release["record"] else ""
    title = f"{release['name']} {release['version']}"
    return [
        title if len(title) <= 32 else f"{title[:31]}…",
        f"{_size(release)}{verdict}",
        signed,
        _short(release["digest"]),
    ]


def _changes(release: dict) -> str:
    changes = release["changes"]
    return f"{changes['added']} added, {changes['changed']} changed, {changes['withdrawn']} withdrawn"


def _what(release: dict) -> str:
    return "model" if release.get("architecture") else "release"


def _before(release: dict) -> str:
    """What the first release or a model was made from."""
    return "release it learned" if release.get("architecture") else "clean release"


def _size(release: dict) -> str:
    return release.get("architecture") or _count(release["images"], "image")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short_digests(text: str) -> str:
    return HEX.sub(lambda found: _short(found[0]), text)


def _short(digest: str) -> str:
    return f"{digest[:12]}…" if len(digest) > 12 else digest
