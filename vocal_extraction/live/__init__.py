"""Separation of sound while it plays: through audio devices, or PCM through pipes; see docs/live.md.

`separation.StreamingSeparator` does the work. Between audio devices it runs in a process of its own (`worker`), so that
nothing but copying happens in the callback that the audio system waits for (`devices`).
"""

from vocal_extraction.live.run import run_live
