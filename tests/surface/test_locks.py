"""What the image is built from has everything that medmark needs to run, KFP's client included."""

import configparser
import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def locked() -> dict[str, str]:
    """Version by name of each package in the locks."""
    found: dict[str, str] = {}
    for file in ("torch", "requirements", "kfp"):
        text = (ROOT / "images" / "locks" / f"{file}.lock").read_text()
        blocks = re.split(r"\n(?=\S)", text.strip())
        assert all("--hash=sha256:" in block for block in blocks), file
        pins = [re.match(r"([\w.-]+)==([^\s;]+)", block) for block in blocks]
        names = {canonicalize_name(pin[1]): pin[2] for pin in pins}
        assert not names.keys() & found.keys(), file
        found |= names
    return found


def unmet(wanted: list[str], there: dict[str, str]) -> list[str]:
    """Requirements that the locks do not meet, and those of what they have; as the installed packages state them."""
    problems, seen = [], set()
    todo = [("setup.cfg", Requirement(line)) for line in wanted]
    while todo:
        by, requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        version = there.get(name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{by} needs {requirement}, there is {version}")
        elif (name, extras := frozenset(requirement.extras)) not in seen:
            seen.add((name, extras))
            for line in requires(name) or []:
                one = Requirement(line)
                if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                    todo.append((name, one))
    return problems


def wanted() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = (line.strip() for line in config["options"]["install_requires"].splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_the_locks_hold_what_setup_cfg_asks_for_and_what_that_needs():
    assert unmet(wanted(), locked()) == []


def test_what_is_missing_or_too_old_is_found():
    there = locked()
    without = {name: version for name, version in there.items() if name != "kfp-server-api"}
    assert any("kfp-server-api" in problem for problem in unmet(wanted(), without))
    assert any("minio" in problem for problem in unmet(wanted(), there | {"minio": "6.0"}))
