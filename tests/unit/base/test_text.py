from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from medmark.components.base.text import one_line, printable, reason_of


@given(st.text(), st.integers(1, 50))
def test_any_text_becomes_one_short_printable_line(text, limit):
    line = one_line(text, limit)
    assert line.isprintable() and len(line) <= limit and line == line.lstrip()


@given(st.text())
def test_any_name_can_be_shown(name):
    assert printable(name).isprintable()
    if name.isprintable() and len(name) <= 512:
        assert printable(name) == name


def test_secrets_are_hidden_before_the_line_is_cut():
    assert one_line("key s3cret\nrefused", hidden=["s3cret", None]) == "key *** refused"
    assert "s3" not in one_line("a" * 196 + " s3cret", 200, hidden=["s3cret"])


def test_the_reason_of_an_error_has_no_password_and_is_never_empty():
    assert reason_of(OSError("no\x1b[31m answer from https://me:pass@host/x")) == "no [31m answer from https://host/x"
    assert reason_of(TimeoutError()) == "TimeoutError"
