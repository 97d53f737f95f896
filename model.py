"""The specification's import: ``from model import MaskInference, create_model``."""

from vocal_extraction.networks import MaskInference, create_model

__all__ = ["MaskInference", "create_model"]
