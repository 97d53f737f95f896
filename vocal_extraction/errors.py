"""The root of every error that this project raises on purpose, and those that several packages raise."""


class VocalExtractionError(Exception):
    """Root of every error that this project raises on purpose; its text says what to do."""


class SettingsError(VocalExtractionError, ValueError):
    """A setting is out of its range; all complaints are gathered in one message."""


class ExtractionError(VocalExtractionError):
    """A song could not be separated; the text says why and what to do."""


class TrainingError(VocalExtractionError):
    """Training cannot start or go on; the text says why and what to do."""


class DataError(TrainingError):
    """Training or validation data is missing or cannot be used."""


class ResumeError(TrainingError):
    """A run cannot be continued."""


class ExportError(VocalExtractionError):
    """A network cannot be exported; the text says why."""


class DamagedSongError(ExtractionError):
    """A song is truncated or broken; `keep_partial` takes what decodes."""


class ExtractionCancelledError(ExtractionError):
    """The caller's `cancelled` asked to stop; nothing half-written remains."""

    def __init__(self) -> None:
        super().__init__("Stopped before the end, as asked. Run it again to do what is missing.")


class SongTooLongError(ExtractionError):
    """More of a song came in than the caller's `longest_s` allows; nothing half-written remains."""

    def __init__(self, longest_s: float) -> None:
        super().__init__(f"The song is longer than {longest_s:g} s, the most that may be taken. Choose a shorter one.")
