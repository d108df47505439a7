"""Reports as HTML: one style, and numbers as people read them."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(package: str) -> Environment:
    """Templates of a package and the common ``style.j2``; whatever is filled in is escaped.

    Args:
        package: import name of the room that has the templates.
    """
    rooms = [PackageLoader(name, ".") for name in (package, __package__)]
    return Environment(loader=ChoiceLoader(rooms), autoescape=True, undefined=StrictUndefined)


def percent(share: float) -> str:
    """0.9512 as ``95.1 %``, kept on one line."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def p_value(p: float) -> str:
    """A p-value as most people read it: without an exponent."""
    return "< 0.000001" if p < 1e-6 else f"{p:.6f}" if p < 0.001 else f"{p:.3f}"
