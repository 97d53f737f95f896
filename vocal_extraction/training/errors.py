"""What can go wrong in training, beside what the packages below raise."""

from vocal_extraction.errors import VocalExtractionError


class TrainingError(VocalExtractionError):
    """Training cannot start or go on; the text says why and what to do."""


class DataError(TrainingError):
    """Training or validation data is missing or cannot be used."""


class ResumeError(TrainingError):
    """A run cannot be continued."""
