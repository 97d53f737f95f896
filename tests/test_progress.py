"""Long jobs draw a bar in a terminal, and print a line a minute elsewhere."""

import io
import sys
import types

import pytest

from vocal_extraction import progress
from vocal_extraction.progress import counted


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(counted("abc", 3, "reading")) == ["a", "b", "c"]
    assert "reading: 100%" in sys.stderr.getvalue()


def test_a_pipe_has_a_line_a_minute_and_one_at_the_end(monkeypatch, capsys):
    seconds = iter(range(0, 1_000, 25))
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    assert list(counted(range(5), 5, "reading")) == list(range(5))
    assert capsys.readouterr().err == "reading: 3 of 5 songs in 75 s\nreading: 5 of 5 songs in 125 s\n"


@pytest.mark.parametrize("options", [{"show": False}, {"n_items": 0}])
@pytest.mark.parametrize("stream", [Terminal, io.StringIO, lambda: None])
def test_nothing_is_shown_of_nothing_or_when_not_asked_for(monkeypatch, options, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    items = list(range(options.get("n_items", 5)))
    assert list(counted(items, len(items), "reading", show=options.get("show", True))) == items
    assert sys.stderr is None or sys.stderr.getvalue() == ""
