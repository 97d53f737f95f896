"""Separation of sound while it plays: through audio devices, or PCM through pipes; see docs/live.md."""

from vocal_extraction.live.run import run_live
