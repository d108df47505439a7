import sys

import pytest
from medmark.components.base import progress
from medmark.components.base.progress import track


def test_items_pass_through_unchanged_and_lazily():
    taken = []

    def source():
        for i in range(5):
            taken.append(i)
            yield i

    items = track(source(), "counting")
    assert next(items) == 0
    assert taken == [0]
    assert list(items) == [1, 2, 3, 4]


def test_without_a_terminal_a_line_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))  # every item takes four seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(track([1] * 6, "reading")) == [1] * 6
    assert list(track(iter([1] * 3), "reading a stream")) == [1] * 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "reading: 3/6 after 12 s",
        "reading: 6/6 after 24 s",
        "reading a stream: 3/? after 12 s",
    ]


def test_short_steps_stay_silent(capsys):
    list(track(range(3), "short"))
    assert capsys.readouterr().err == ""


def test_an_error_inside_passes_through():
    with pytest.raises(ZeroDivisionError):
        for item in track([1, 0], "dividing"):
            1 / item


def test_on_a_terminal_too_every_item_comes(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track(range(4), "bar")) == [0, 1, 2, 3]
