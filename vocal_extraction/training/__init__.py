"""Training: mixtures in, checkpoints out."""

from vocal_extraction.errors import DataError, ResumeError, TrainingError
from vocal_extraction.training.trainer import train_model

__all__ = ["DataError", "ResumeError", "TrainingError", "train_model"]
