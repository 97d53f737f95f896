"""The outcome of each song, the totals of a batch, and progress bars on standard error where that is a terminal."""

import collections
import contextlib
import dataclasses
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.utils import disp_len, disp_trim

from vocal_extraction.progress import LINE_EVERY_S
from vocal_extraction.separation import Progress

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc} {n:.0f} s [{elapsed}{postfix}]{bar:0}"
_LONGEST_NAME = 24  # in columns of a terminal
_MOST_REASONS = 5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one song; ``str`` gives the sentence to print."""

    file: str  # the song as it was named, '-' for standard input
    outcome: str  # 'done', 'skipped' (done before) or 'failed'
    seconds: float = 0.0
    reason: str | None = None  # why it failed or was skipped
    duration_s: float | None = None
    stems: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Path of each stem, or of a catalogue its address; empty if it failed, or if the stem went to standard output."""
    scale: float = 1.0  # factor on all stems, below 1 where the format would have clipped
    runtime: str | None = None  # what ran the network
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.outcome == FAILED

    def as_record(self) -> dict[str, Any]:
        stems = {name: str(path) for name, path in self.stems.items()}
        return dataclasses.asdict(self) | {"seconds": round(self.seconds, 3), "stems": stems, "notes": list(self.notes)}

    def __str__(self) -> str:
        """Say it in a line, and the notes in a line each.

        >>> print(Outcome("song.mp3", FAILED, reason="It is empty."))
        song.mp3: failed. It is empty.
        >>> print(Outcome("song.mp3", DONE, 2.0, duration_s=60.0, stems={"vocals": Path("a.wav")}, runtime="torch"))
        song.mp3: done in 2.0 s (30.0 times real time, torch): a.wav
        """
        if self.outcome != DONE:
            return f"{self.file}: {self.outcome}. {self.reason}"
        speed = f"{self.duration_s / self.seconds:.1f} times real time" if self.duration_s and self.seconds else None
        how = ", ".join(filter(None, (speed, self.runtime)))
        places = ", ".join(map(str, self.stems.values())) or "standard output"
        notes = "".join(f"\n  {note}." for note in self.notes)
        return f"{self.file}: done in {self.seconds:.1f} s{f' ({how})' if how else ''}: {places}{notes}"


@dataclasses.dataclass
class Totals:
    """What has come of many songs so far; ``str`` gives the line to print."""

    price_per_core_hour: float | None = None
    n_cores: int = 1  # that are paid for
    done: int = 0
    skipped: int = 0
    audio_s: float = 0.0  # length of the songs that were done
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """How many songs failed for each reason."""
    started_s: float | None = dataclasses.field(default_factory=time.monotonic)  # None: each song's time counts
    worked_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.worked_s += outcome.seconds
        if outcome.failed:
            # Names, numbers and what libraries say in brackets would make every song's reason another.
            names = "|".join((re.escape(outcome.file), re.escape(Path(outcome.file).name)))
            reason = re.sub(names, "the song", outcome.reason or "")
            self.failures[re.sub(r"\d[\d.]*", "N", re.sub(r" \[.*\]", "", reason))] += 1
        elif outcome.outcome == SKIPPED:
            self.skipped += 1
        else:
            self.done, self.audio_s = self.done + 1, self.audio_s + (outcome.duration_s or 0.0)

    def as_record(self) -> dict[str, Any]:
        hours = (self.worked_s if self.started_s is None else time.monotonic() - self.started_s) / 3600
        record: dict[str, Any] = {"done": self.done, "skipped": self.skipped, "failed": self.failures.total()}
        record |= {"failures": dict(self.failures.most_common()), "audio_hours": round(self.audio_s / 3600, 4)}
        record |= {"hours": round(hours, 4), "times_real_time": round(self.audio_s / 3600 / max(hours, 1e-6), 1)}
        if self.price_per_core_hour is not None:
            record["cost"] = round(hours * self.n_cores * self.price_per_core_hour, 4)
        return record

    def __str__(self) -> str:
        """Say it in a line.

        >>> totals = Totals()
        >>> totals.add(Outcome("a/song 1.mp3", FAILED, reason="song 1.mp3 ends after 3.5 s."))
        >>> str(totals)
        '0 songs done (0.00 hours of audio, 0.0 times real time), 1 failed (1: the song ends after N s.)'
        """
        now = self.as_record()
        line = f"{now['done']} songs done ({now['audio_hours']:.2f} hours of audio, "
        line += f"{now['times_real_time']:.1f} times real time)" + (f", {self.skipped} skipped" if self.skipped else "")
        if self.failures:
            reasons = "; ".join(f"{n}: {reason}" for reason, n in self.failures.most_common(_MOST_REASONS))
            line += f", {now['failed']} failed ({reasons}{'; ...' if len(self.failures) > _MOST_REASONS else ''})"
        if "cost" in now:
            line += f", cost {now['cost']:.2f} ({1000 * now['cost'] / max(self.done, 1):.2f} for 1,000 songs)"
        return line


class ProgressBars:
    """A bar for each song under way, below one for the batch; where stderr is no terminal, a line a minute."""

    def __init__(
        self, n_songs: int | None, *, show: bool, results: TextIO | None = None, totals: Totals | None = None
    ) -> None:
        self._show, self._results, self._n_songs = show, results, n_songs
        self.totals, self._n_reported, self._said_s = totals or Totals(), 0, time.monotonic()
        self._options: dict[str, Any] = {"file": sys.stderr, "disable": not (show and sys.stderr.isatty())}
        hidden = self._options | ({"disable": True} if n_songs == 1 else {})
        self._batch: Any = tqdm(total=n_songs, desc="songs", unit="song", **hidden)

    @contextlib.contextmanager
    def song(self, song: str | Path) -> Iterator[Progress]:
        """Show the bar of one song, and yield the function that moves it."""
        started, name = time.monotonic(), shortened(Path(song).name)
        bar: Any = tqdm(desc=name, bar_format=_BAR_WITHOUT_END, leave=False, **self._options)

        def move(done_s: float, total_s: float | None) -> None:
            if total_s is not None:
                bar.bar_format, bar.total = _BAR, max(total_s, done_s)
            speed = done_s / max(time.monotonic() - started, 1e-3)
            bar.set_postfix_str(f"{speed:.1f} times real time", refresh=False)
            bar.update(done_s - bar.n)

        with bar:
            yield move

    def report(self, outcome: Outcome) -> None:
        """Count a song, and say at once what came of it."""
        self._n_reported += 1
        self.totals.add(outcome)
        self._batch.set_postfix_str(str(self.totals), refresh=False)
        self._batch.update(1)
        if self._show and self._options["disable"] and time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            print(f"{self._n_reported} of {self._n_songs or '?'} songs: {self.totals}", file=sys.stderr, flush=True)
        stream = self._results if not outcome.failed else sys.stderr if self._show else None
        if stream is not None:
            tqdm.write(str(outcome), file=stream)
            stream.flush()

    def close(self) -> None:
        """Leave the bar of the batch as it stands; say how far it came if it was stopped."""
        self._batch.close()
        if self._show and self._n_songs is not None and 1 < self._n_songs != self._n_reported:
            tqdm.write(f"{self._n_reported} of {self._n_songs} songs were through.", file=sys.stderr)


def shortened(name: str) -> str:
    """Return a name that takes one line, and few columns of it; Chinese and the like take two columns a character.

    >>> shortened("one" + chr(10) + "two"), shortened("\u97f3\u697d" * 10)
    ('one?two', '音楽音楽音楽音楽音楽音…')
    """
    line = "".join(character if character.isprintable() else "?" for character in name)
    return line if disp_len(line) <= _LONGEST_NAME else f"{disp_trim(line, _LONGEST_NAME - 1)}…"
