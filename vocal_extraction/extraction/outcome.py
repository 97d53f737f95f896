"""What came of a song: the errors of this room, and the record of one extraction."""

import dataclasses
import os
from pathlib import Path
from typing import Any

DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one song; ``str`` gives the sentence to print."""

    file: str
    """The song as it was named, '-' for standard input."""
    outcome: str
    """'done', 'skipped' (done before) or 'failed'."""
    seconds: float = 0.0
    """How long it took."""
    reason: str | None = None
    """Why it failed or was skipped."""
    duration_s: float | None = None
    """Length of the song."""
    vocals: Path | None = None
    accompaniment: Path | None = None
    scale: float = 1.0
    """Factor on both stems, below 1 where the format would have clipped."""
    notes: tuple[str, ...] = ()
    """What else there is to say."""

    @property
    def failed(self) -> bool:
        """Whether there is something to put right."""
        return self.outcome == FAILED

    def as_record(self) -> dict[str, Any]:
        """Return plain values for the manifest and for JSON."""
        record = dataclasses.asdict(self) | {"notes": list(self.notes), "seconds": round(self.seconds, 3)}
        return {name: os.fspath(value) if isinstance(value, Path) else value for name, value in record.items()}

    def __str__(self) -> str:
        """Say it in a line.

        >>> print(Outcome("song.mp3", FAILED, reason="It is empty."))
        song.mp3: failed. It is empty.
        >>> print(Outcome("song.mp3", DONE, 2.0, duration_s=60.0, vocals=Path("a.wav"), accompaniment=Path("b.wav")))
        song.mp3: done in 2.0 s (30.0 times real time): a.wav, b.wav
        """
        if self.outcome != DONE:
            return f"{self.file}: {self.outcome}. {self.reason}"
        speed = f" ({self.duration_s / self.seconds:.1f} times real time)" if self.duration_s and self.seconds else ""
        places = ", ".join(str(place) for place in (self.vocals, self.accompaniment) if place is not None)
        notes = "".join(f"\n  {note}." for note in self.notes)
        return f"{self.file}: done in {self.seconds:.1f} s{speed}: {places or 'standard output'}{notes}"
