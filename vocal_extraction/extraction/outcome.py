"""The result of one song's extraction."""

import dataclasses
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
    stems: dict[str, Path] = dataclasses.field(default_factory=dict)
    """The file of each stem; empty if it failed, or where the stem went to standard output."""
    scale: float = 1.0
    """Factor on all stems, below 1 where the format would have clipped."""
    notes: tuple[str, ...] = ()
    """What else there is to say."""

    @property
    def failed(self) -> bool:
        """Whether there is something to put right."""
        return self.outcome == FAILED

    def as_record(self) -> dict[str, Any]:
        """Return plain values for the manifest and for JSON."""
        stems = {name: str(path) for name, path in self.stems.items()}
        return dataclasses.asdict(self) | {
            "seconds": round(self.seconds, 3),
            "stems": stems,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Say it in a line, and the notes in a line each.

        >>> print(Outcome("song.mp3", FAILED, reason="It is empty."))
        song.mp3: failed. It is empty.
        >>> print(Outcome("song.mp3", DONE, 2.0, duration_s=60.0, stems={"vocals": Path("a.wav")}))
        song.mp3: done in 2.0 s (30.0 times real time): a.wav
        """
        if self.outcome != DONE:
            return f"{self.file}: {self.outcome}. {self.reason}"
        speed = f" ({self.duration_s / self.seconds:.1f} times real time)" if self.duration_s and self.seconds else ""
        places = ", ".join(map(str, self.stems.values())) or "standard output"
        notes = "".join(f"\n  {note}." for note in self.notes)
        return f"{self.file}: done in {self.seconds:.1f} s{speed}: {places}{notes}"
