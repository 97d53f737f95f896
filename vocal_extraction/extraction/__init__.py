"""Songs in, files of their stems out: one (`song`), those of a folder (`batch`), or millions (`catalogue`)."""

from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, SongTooLongError
from vocal_extraction.extraction.batch import extract_songs, extract_vocals, plan_of
from vocal_extraction.extraction.catalogue import extract_catalogue
from vocal_extraction.extraction.naming import ALL_STEMS
from vocal_extraction.extraction.outcome import Outcome
from vocal_extraction.separation import separate
