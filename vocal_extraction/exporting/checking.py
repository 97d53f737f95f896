"""Is an exported network as good as on torch? Its estimates of real songs beside torch's."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.checkpointing.onnx_network import load_onnx
from vocal_extraction.demo_songs import SAMPLE_RATE, synthesize_song
from vocal_extraction.errors import ExportError
from vocal_extraction.evaluation.scale_metrics import ScaleMetrics
from vocal_extraction.separation import Separator
from vocal_extraction.settings import DATASET_FOLDER
from vocal_extraction.track_layouts import layout_of
from vocal_extraction.tracks import find_tracks, stems_of

LARGEST_ERROR_DB = -100.0  # of a song's estimates in 32-bit floats, against torch's
LARGEST_LOSS_DB = 0.05  # of SI-SDR by 8-bit weights, the mean over songs and sources
_N_DEMO_SONGS, _DEMO_S = 4, 7.0
Song = tuple[dict[str, NDArray[Any]], int]  # stems by name, (n_channels, n_samples), and their rate


def checked(model: LoadedModel, contents: bytes, *, int8: bool, tracks: str | Path | None = None) -> str:
    """Say how far an exported network's estimates of validation songs are from torch's; too far is an ExportError."""
    network, _, _ = load_onnx(contents, str(model.path))
    separators = [Separator(each) for each in (model, dataclasses.replace(model, network=network))]
    where, songs = _songs(tracks)
    errors, losses = [-np.inf], []
    for stems, sample_rate in songs:
        mixture: NDArray[np.float32] = np.sum([*stems.values()], axis=0, dtype=np.float32)
        sources = [name for name in model.sources if stems_of(name, stems)]
        estimates = [run(mixture.T, sample_rate) for run in separators]
        found = np.stack([[each[name][:].T for name in sources] for each in estimates])
        with np.errstate(divide="ignore", invalid="ignore"):
            errors.append(10 * np.log10(np.square(found[1] - found[0]).sum() / np.square(found[0]).sum()))
        metrics = ScaleMetrics(sample_rate)
        references = [sum(stems[stem] for stem in stems_of(name, stems)) for name in sources]
        metrics.add(np.stack(references), found)
        losses.append(np.subtract(*metrics.values()["SI-SDR"]).ravel())
    loss, error = float(np.nanmean(np.concatenate(losses))), float(np.nanmax(errors))
    sentence = (
        f"on {len(losses)} {where}, its estimates differ from torch's by {error:.0f} dB at most, "
        f"and their SI-SDR is lower by {loss:.3f} dB in the mean"
    )
    if loss > LARGEST_LOSS_DB if int8 else error > LARGEST_ERROR_DB:
        limit = f"{LARGEST_LOSS_DB:g} dB lower" if int8 else f"{LARGEST_ERROR_DB:g} dB"
        raise ExportError(f"{model.path} was not exported: {sentence}; at most {limit} is accepted.")
    return f"Checked: {sentence}."


def _songs(folder: str | Path | None) -> tuple[str, Iterator[Song]]:
    """Return what songs there are to check on, in words, and the songs."""
    given = folder or os.environ.get("MUSDB_PATH") or DATASET_FOLDER
    if folder is None and not (Path(given).is_dir() and layout_of(Path(given))):
        names = "synthesised songs (without validation songs; --tracks DIR or $MUSDB_PATH name some)"
        return names, ((dict[str, Any](synthesize_song(seed, _DEMO_S)), SAMPLE_RATE) for seed in range(_N_DEMO_SONGS))
    tracks = find_tracks(given, subset="valid")
    songs = ((dict(zip(track.sources, track.read(), strict=True)), track.sample_rate) for track in tracks)
    return f"validation songs of {given}", songs
