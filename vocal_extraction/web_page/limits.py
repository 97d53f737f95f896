"""How much the server does for a session."""

import dataclasses

from vocal_extraction.errors import SettingsError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds that keep one session from filling the disk or the day."""

    upload_bytes: int = 300 * 2**20
    """Largest song file."""
    longest_s: float = 20 * 60.0
    """Longest song, decoded."""
    decoded_bytes: int = 10**9
    """Most that one song may decode to, as 32-bit floats: many channels at a high rate count as length."""
    lifetime_s: float = 3_600.0
    """How long the files of a finished job are kept."""
    queue_length: int = 32
    """Jobs that may wait while one is worked on."""
    jobs_per_session: int = 16
    """Of them and the one that is worked on, how many may be one session's."""
    storage_bytes: int = 20 * 10**9
    """What all jobs' files together may take."""

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        broken = [name for name, value in values.items() if not 0 < value < float("inf")]
        if broken:
            raise SettingsError(f"The page's limits must be more than 0: {', '.join(broken)}. Got {values}.")


USUAL_LIMITS = Limits()
