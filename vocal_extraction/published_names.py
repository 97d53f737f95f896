"""Names of the program that the specification describes, for what `settings` and `data_augmentation` hold."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vocal_extraction.data_augmentation import event_template
from vocal_extraction.musdb_preparation.layout import PreparationError
from vocal_extraction.settings import MixingSettings, SignalSettings

stem_labels = ["vocals", "drums", "bass", "other"]
scaper_event_template = {**event_template(MixingSettings()), "label": ("const", "vocals")}
scaper_object_configuration = {  # as scaper takes them; ``train`` reads `settings`
    "sample_rate": SignalSettings.sample_rate,
    "reference_db": MixingSettings.ref_db,
    "number_of_channels": 1,
    "generated_track_duration": MixingSettings.duration_s,
}


def prepare_dataset(dataset: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Write the stems of a ``nussl.datasets.MUSDB18`` as scaper wants them, unless the folder is there already.

    They become ``<path>/foreground/<stem>/<song>.wav``, named after the mixture's file, beside ``<path>/background``.
    Raises PreparationError if the path is a file.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        return
    if path.is_file():
        raise PreparationError(f"{path} is a file. Name a folder, which is made if it is missing.")
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "background").mkdir(parents=True)
    titles: set[str] = set()
    for number, song in enumerate(dataset):
        title = song["mix"].file_name or f"song {number}"
        title = f"{title} ({number})" if title in titles else title
        titles.add(title)
        for stem, source in song["sources"].items():
            folder = unfinished / "foreground" / stem
            folder.mkdir(parents=True, exist_ok=True)
            source.write_audio_to_file(str(folder / f"{title}.wav"))
    unfinished.rename(path)
