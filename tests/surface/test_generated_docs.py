"""What documents take from the code is what the code says now."""

import importlib.util
import os
from pathlib import Path

import pytest
from kfp import dsl

ROOT = Path(__file__).parents[2]
UPDATE = "MEDMARK_UPDATE_GOLDEN"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_documents_are_up_to_date(generate):
    for path, wanted in generate.generated().items():
        if os.environ.get(UPDATE):
            path.write_text(wanted)
        there = path.read_text() if path.exists() else ""
        assert there == wanted, f"{path.name} is out of date: run 'python docs/generate.py' and commit"


@dsl.component
def halve(count: int, share: float = 0.5) -> int:
    """Halves a count.

    Args:
        count: of images.
        {}: to keep,
            rounded | up.

    Returns:
        What is left.
    """
    return int(count * share)


def page(generate, described: str) -> str:
    halve.python_func.__doc__ = DOC.format(described)
    return generate.component_page("halve", halve, "own.component")


DOC = halve.python_func.__doc__


def test_a_component_is_listed_with_its_ports(generate):
    assert page(generate, "share").splitlines() == [
        "### halve",
        "",
        "`from own.component import halve`",
        "",
        "Halves a count.",
        "",
        "| port | | type | meaning |",
        "|---|---|---|---|",
        "| `count` | in | Integer | of images. |",
        "| `share` | in | Float, default `0.5` | to keep, rounded \\| up. |",
        "| `Output` | out | Integer | What is left. |",
    ]


@pytest.mark.parametrize("described", ["part", "count", "share, part", "a share"])
def test_every_port_must_be_described_and_nothing_else(generate, described):
    with pytest.raises(ValueError, match="port"):
        page(generate, described)
