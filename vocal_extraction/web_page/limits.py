"""How much the page does for its visitors."""

import dataclasses

from vocal_extraction.errors import SettingsError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds that keep one visitor from filling the disk or the day."""

    upload_bytes: int = 300 * 2**20
    """Largest song file."""
    longest_s: float = 20 * 60.0
    """Longest song, decoded."""
    decoded_bytes: int = 10**9
    """Most that one song may decode to, as 32-bit floats: many channels at a high rate are long, too."""
    lifetime_s: float = 3_600.0
    """How long a visitor's songs and results are kept."""
    queue_length: int = 8
    """Songs that may wait while one is taken apart."""
    songs_per_visitor: int = 2
    """Of them and the one that is taken apart, how many may be one visitor's."""
    storage_bytes: int = 20 * 10**9
    """What all visitors' files together may take."""

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        broken = [name for name, value in values.items() if not 0 < value < float("inf")]
        if broken:
            raise SettingsError(f"The page's limits must be more than 0: {', '.join(broken)}. Got {values}.")


USUAL_LIMITS = Limits()
