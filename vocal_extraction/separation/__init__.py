"""A mixture in, its sources out, in constant memory and at any length."""

from vocal_extraction.separation.separation import separate

__all__ = ["separate"]
