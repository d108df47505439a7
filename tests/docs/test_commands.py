"""Commands in Markdown files: each one exists, and so do its options."""

import re
import shlex
from pathlib import Path

import pytest
from medmark.pipelines.cli import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    text = "\n".join(block.replace("\\\n", " ") for kind, block in blocks if not kind)
    return re.findall(r"^(?:\w+=\S+ )?medmark .*$", text, re.M)


PAGES = [
    page for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md") if commands(page)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_shown(page):
    for line in commands(page):
        words = shlex.split(line, comments=True)
        command = get_command(app)
        for word in words[words.index("medmark") + 1 :]:
            if word not in getattr(command, "commands", {}):
                break
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        assert not hasattr(command, "commands"), line
        assert {word for word in words if word.startswith("--")} <= known, line
