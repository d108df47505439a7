"""Makes readable what kfp.local prints: one line per step, its progress, and the reason if it fails."""

from __future__ import annotations

import io
import re
import sys
from collections import defaultdict
from pathlib import Path
from threading import get_ident

EXECUTING = re.compile(r"Executing task .*?'(?P<step>[a-z0-9-]+)'")
FAILED = re.compile(r"Task '(?P<step>[a-z0-9-]+)' finished with status FAILURE")
PROGRESS = re.compile(r"^\s*(?P<line>[a-z][\w ]+: \d+/[\d?]+ after \d+ s)\s*$")
REASON = re.compile(r"medmark\.components\.base\.errors\.MedmarkError: (?P<reason>.*)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class StepOutput(io.TextIOBase):
    """Stands in for standard output while a pipeline runs.

    Args:
        log: file that gets everything.
        everything: also show everything, for ``--debug``.
        names: display name of each step, by what kfp.local calls it: the name of its component in the compiled pipeline.

    Attributes:
        reason: text of the MedmarkError with which the first step failed, or None.
        step: name of that step, or of the running step until one fails. Steps that do not need it still run after it.
    """

    def __init__(self, log: Path, everything: bool, names: dict[str, str]):
        self._log = open(log, "a", encoding="utf-8")
        self._everything, self._terminal = everything, sys.__stdout__ or sys.stdout
        self._names = names
        self._lines: defaultdict[int, str] = defaultdict(
            str
        )  # that are not finished; the steps of a loop write in threads
        self.reason: str | None = None
        self.step = "start"
        self._failed = False

    def write(self, text: str) -> int:
        self._log.write(text)
        if self._everything:
            self._terminal.write(text)
        *lines, self._lines[get_ident()] = (self._lines[get_ident()] + text).split("\n")
        for line in lines:
            self._read(ANSI.sub("", line))
        return len(text)

    def flush(self) -> None:
        self._log.flush()

    def close(self) -> None:
        super().close()
        self._log.close()

    def _read(self, line: str) -> None:
        if match := EXECUTING.search(line):
            step = self._names.get(match["step"], match["step"])
            self._say(f"step {step}")
            self.step = self.step if self._failed else step
        elif match := PROGRESS.match(line):
            self._say(f"  {match['line']}")
        elif self._failed:
            return
        elif match := REASON.search(line):
            self.reason = match["reason"]
        elif match := FAILED.search(line):
            self.step, self._failed = self._names.get(match["step"], match["step"]), True

    def _say(self, line: str) -> None:
        if not self._everything:
            print(line, file=sys.stderr, flush=True)
