"""What :func:`medmark.components.lineage.chain.verify_chain` found, for people: a tree for the terminal and a page with a picture."""

from __future__ import annotations

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
            tone=tone,
            headline=headline,
            releases=[release | {"title": _title(release), "facts": _facts(release)} for release in reversed(releases)],
            older=len(result["releases"]) - len(releases),
            wrong=[_short_digests(found["says"]) for found in result["objects"] if found["status"] == BROKEN],
            picture=picture(result | {"releases": releases}),
        )
    )
    Path(out_html).write_text(html, encoding="utf-8")


def picture(result: dict) -> dict:
    """Where the boxes and arrows of the picture go.

    Args:
        result: of ``verify_chain``.

    Returns:
        ``width`` and ``height``; ``boxes``: ``x``, ``y``, ``width``, ``height``, ``kind``, ``lines`` of text, ``broken``;
        ``arrows``: ``points`` as SVG writes them, ``label`` at ``x`` and ``y``, ``broken``, ``kind``.
    """
    boxes, arrows = [], []
    before = False  # whether the release before is broken
    for row, release in enumerate(result["releases"]):
        top = 8 + row * ROW
        middle = top + BOX / 2
        wrong = _broken(result, release)
        kinds = {found["kind"] for found in wrong}
        record, first = release["record"], release["changes"] is None

        def box(column: tuple[int, int], kind: str, lines: list[str], broken: bool, y: float = top) -> None:
            x, width = column
            boxes.append(
                {"x": x, "y": y, "width": width, "height": BOX, "kind": kind, "lines": lines, "broken": broken}
            )

        def arrow(
            start: tuple[int, int], end: tuple[int, int], label: str, kind: str, broken: bool, y: float = middle
        ) -> None:
            left, right = sum(start), end[0]
            middle_x = (left + right) / 2
            points = f"{left},{y} {right - 2},{y}"
            arrows.append({"points": points, "x": middle_x, "y": y - 7, "label": label, "kind": kind, "broken": broken})

        itself = bool(kinds - {*OF_COMMITMENT, "raw", "clean"})
        box(RELEASE, "release", _release_lines(release), itself)
        if record is not None:
            drop = record["drop"]
            files = "" if drop["files"] is None else _count(drop["files"], "file")
            names = [step["name"] for step in record["steps"]]
            if first:
                box(DROP, "drop", ["raw drop", files, _short(drop["digest"])], "raw" in kinds)
                box(CLEAN, "clean", ["clean release", "private", _short(record["parent_digest"])], "clean" in kinds)
                arrow(DROP, CLEAN, names[0], "step", "raw" in kinds)
                arrow(CLEAN, RELEASE, _count(len(names) - 1, "step"), "step", "clean" in kinds)
            else:
                box(DROP, "drop", ["raw drop", files, _short(drop["digest"])], False)
                shown = ", ".join(names[:SHOWN_STEPS]) + (", ..." if len(names) > SHOWN_STEPS else "")
                arrow(DROP, RELEASE, shown, "step", False)
        if release["commitment_sha256"] is not None:
            when = release["timestamp"] or release["committed_at"]
            stamped = (
                "stamped by an authority"
                if release["timestamp"]
                else "time as the signer says"
                if when
                else "time not checked"
            )
            lines = ["commitment", stamped, when or "", _short(release["commitment_sha256"])]
            box(COMMITMENT, "commitment", lines, bool(kinds & set(OF_COMMITMENT)))
            arrow(RELEASE, COMMITMENT, "", "names", bool(kinds & set(OF_COMMITMENT)))
        if row:
            x = RELEASE[0] + RELEASE[1] / 2
            label = _changes(release) if release["changes"] else ""
            broken = itself or before
            points = f"{x},{top - ROW + BOX} {x},{top - 2}"
            arrows.append(
                {
                    "points": points,
                    "x": x + 10,
                    "y": top - (ROW - BOX) / 2 + 4,
                    "label": label,
                    "kind": "next",
                    "broken": broken,
                }
            )
        before = itself
    return {"width": 1000, "height": 16 + len(result["releases"]) * ROW - (ROW - BOX), "boxes": boxes, "arrows": arrows}


def _headline(result: dict) -> tuple[str, str]:
    count = len(result["releases"])
    if result["broken"] is not None:
        return "bad", "The chain is broken"
    if not result["holds"]:
        return "open", "Nothing is broken, but signatures were not checked"
    return "good", f"All {count} releases hold" if count > 1 else "The release holds"


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
    return f"{release['name']} {release['version']}, {_count(release['images'], 'image')}, {_short(release['digest'])}"


def _facts(release: dict) -> list[str]:
    """What a release says of itself, a line each."""
    record, lines = release["record"], []
    if record is not None:
        drop = record["drop"]
        files = "" if drop["files"] is None else f", {_count(drop['files'], 'file')}"
        before = "clean release" if release["changes"] is None else "release"
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
        f"{_count(release['images'], 'image')}{verdict}",
        signed,
        _short(release["digest"]),
    ]


def _changes(release: dict) -> str:
    changes = release["changes"]
    return f"{changes['added']} added, {changes['changed']} changed, {changes['withdrawn']} withdrawn"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short_digests(text: str) -> str:
    return HEX.sub(lambda found: _short(found[0]), text)


def _short(digest: str) -> str:
    return f"{digest[:12]}…" if len(digest) > 12 else digest
