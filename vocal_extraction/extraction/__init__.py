"""Song file in, vocals and accompaniment out.

``extract_vocals`` takes one song, ``extract_songs`` files and folders as a job, ``separate`` an array.

A song's way: `song_reading` decodes it, `pieces` cuts the stream, `estimation` runs the network, `separation` holds
the stream together, `song` keeps the levels, `song_writing` encodes, with what `tags` found. Around it, `naming`
chooses the places, `manifest` remembers, `batch` goes through many songs, `bars` shows how far it is; `ffmpeg` starts
programs.
"""

from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, SongTooLongError
from vocal_extraction.extraction.batch import extract_songs, extract_vocals
from vocal_extraction.extraction.outcome import Outcome
from vocal_extraction.separation.separation import separate

__all__ = [
    "ExtractionCancelledError",
    "ExtractionError",
    "Outcome",
    "SongTooLongError",
    "extract_songs",
    "extract_vocals",
    "separate",
]
