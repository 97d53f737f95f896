"""Progress bars on standard error: one for the batch, one for each song under way; none where it is no terminal."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vocal_extraction.extraction.outcome import Outcome
from vocal_extraction.separation import Progress

_SONG_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}{postfix}]"
_ENDLESS_FORMAT = "{desc} {n:.0f} s [{elapsed}{postfix}]"
_LONGEST_NAME = 30


class ProgressBars:
    """The bars of a batch.

    Parameters
    ----------
    n_songs
        Songs of the batch; one alone has no bar for the batch.
    show
        Whether bars and failures are shown at all.
    """

    def __init__(self, n_songs: int, *, show: bool) -> None:
        self._show = show
        self._options: dict[str, Any] = {"file": sys.stderr, "disable": not (show and sys.stderr.isatty())}
        hidden = self._options | ({"disable": True} if n_songs < 2 else {})
        self._batch: Any = tqdm(total=n_songs, desc="songs", unit="song", **hidden)

    @contextlib.contextmanager
    def song(self, song: str | Path) -> Iterator[Progress]:
        """Show the bar of one song, and yield the function that moves it."""
        name, started = Path(song).name, time.monotonic()
        short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        bar: Any
        with tqdm(desc=short, bar_format=_ENDLESS_FORMAT, leave=False, **self._options) as bar:

            def move(done_s: float, total_s: float | None) -> None:
                if total_s is not None:
                    bar.bar_format, bar.total = _SONG_FORMAT, max(total_s, done_s)
                speed = done_s / max(time.monotonic() - started, 1e-3)
                bar.set_postfix_str(f"{speed:.1f} times real time", refresh=False)
                bar.update(done_s - bar.n)

            yield move

    def report(self, outcome: Outcome) -> None:
        """Count a song, and say at once what failed."""
        self._batch.update(1)
        if self._show and outcome.failed:
            tqdm.write(str(outcome), file=sys.stderr)

    def close(self) -> None:
        """Leave the bar of the batch as it stands."""
        self._batch.close()
