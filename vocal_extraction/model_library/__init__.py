"""Other people's models, imported from files or fetched from their makers, kept as checkpoints of this program."""

from vocal_extraction.model_library.fetching import LibraryError, LicenceError
from vocal_extraction.model_library.library import fetch_model, import_model, model_card, models_table, remove_model
