"""Progress on standard error: a bar for the songs, and one for each that is under way. Silent where nobody looks on."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from vocal_extraction.extraction.outcome import Outcome
from vocal_extraction.separation.separation import Progress

_SONG_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}{postfix}]"
_ENDLESS_FORMAT = "{desc} {n:.0f} s [{elapsed}{postfix}]"
_LONGEST_NAME = 30


class Bars:
    """The bars of a batch; use it in a ``with`` statement."""

    def __init__(self, n_songs: int, *, show: bool) -> None:
        self._show = show
        self._hidden = not (show and sys.stderr.isatty())
        self._lines: list[int] = []
        self._lock = threading.Lock()
        self._files: Any = tqdm(
            total=n_songs, desc="songs", unit="song", disable=self._hidden or n_songs < 2, file=sys.stderr
        )

    def __enter__(self) -> "Bars":
        """Show the bar of the songs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._files.close()

    @contextlib.contextmanager
    def song(self, song: str | Path) -> Iterator[Progress]:
        """Show the bar of one song, and give the function that moves it."""
        with self._lock:
            line = next(number for number in range(1, len(self._lines) + 2) if number not in self._lines)
            self._lines.append(line)
        name = Path(song).name
        bar = tqdm(
            desc=name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…",
            total=None,
            bar_format=_ENDLESS_FORMAT,
            position=line,
            leave=False,
            disable=self._hidden,
            file=sys.stderr,
        )
        started = time.monotonic()

        def move(done_s: float, total_s: float | None) -> None:
            if total_s is not None:
                bar.bar_format, bar.total = _SONG_FORMAT, max(total_s, done_s)
            speed = done_s / max(time.monotonic() - started, 1e-3)
            bar.set_postfix_str(f"{speed:.1f} times real time", refresh=False)
            bar.update(done_s - bar.n)

        try:
            yield move
        finally:
            bar.close()
            with self._lock:
                self._lines.remove(line)

    def report(self, outcome: Outcome) -> None:
        """Count a song, and say at once what failed."""
        self._files.update(1)
        if self._show and outcome.failed:
            tqdm.write(str(outcome), file=sys.stderr)
