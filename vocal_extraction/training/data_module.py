"""All data of one run, put together from its preset and its tracks."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vocal_extraction.data_augmentation import MixClosure
from vocal_extraction.errors import DataError
from vocal_extraction.presets import Preset
from vocal_extraction.track_layouts import cache_of
from vocal_extraction.tracks import Track, TrackFolder, find_tracks, stems_of
from vocal_extraction.training.mixture_cache import MixtureCache
from vocal_extraction.training.mixtures import Batch, MixtureDataset, MixtureSampler, make_loader
from vocal_extraction.training.processes import Processes

Tracks = Mapping[str, Sequence[Track]]  # tracks by subset: 'train' and 'valid'
_EXCERPT_S = 30.0  # from the middle of each validation song, where a run is validated on mixtures


def find_training_tracks(
    folders: Sequence[str | Path | TrackFolder], preset: Preset, *, progress: bool = False
) -> dict[str, list[Track]]:
    """Find the tracks to train and to validate on; errors are those of `find_tracks`, or a DataError."""
    tracks = {
        subset: find_tracks(folders, subset=subset, sample_rate=preset.signal.sample_rate, progress=progress)
        for subset in ("train", "valid")
    }
    for subset, found in tracks.items():
        if not any(stems_of(source, track.sources) for track in found for source in preset.sources):
            there = sorted({stem for track in found for stem in track.sources})
            raise DataError(
                f"The {subset} songs have {', '.join(there)}, but none of {', '.join(preset.sources)}, which preset "
                f"{preset.name!r} is to learn. Choose other sources or songs."
            )
    return tracks


def mixture_folder(folder: str | Path | TrackFolder) -> Path:
    """Return where mixtures are kept: beside prepared songs, but not in a folder of other songs."""
    path = TrackFolder.parse(folder).path
    return path if (path / "train" / "foreground").is_dir() else cache_of(path)


class ValidationSong:
    """A song to validate on, or its middle, which is read when it is needed: not all songs fit into memory."""

    def __init__(self, track: Track, sources: tuple[str, ...], *, longest_s: float = math.inf) -> None:
        self.name, self.sources = track.name, sources
        self._track = track
        n_samples = min(track.n_samples, round(min(longest_s, track.duration_s) * track.sample_rate))
        self._start = (track.n_samples - n_samples) // 2
        self._stop = self._start + n_samples

    def read(self) -> tuple[Tensor, Tensor]:
        """Return the mixture (n_channels, n_samples) and the targets (n_sources, n_channels, n_samples).

        A target that the song does not have, or that is silent in a channel, is silent in all.
        """
        stems = dict(zip(self._track.sources, self._track.read(self._start, self._stop), strict=True))
        mixture = torch.from_numpy(sum(stems.values()))
        targets = mixture.new_zeros((len(self.sources), *mixture.shape))
        for target, source in zip(targets, self.sources, strict=True):
            for stem in stems_of(source, stems):
                target += torch.from_numpy(stems[stem])
            if not bool(target.any(dim=-1).all()):
                target.zero_()
        return mixture, targets


class DataModule:
    """Training mixtures, validation mixtures and songs of one process; `cache_folder` gets mixtures that are kept."""

    def __init__(
        self,
        preset: Preset,
        seed: int,
        tracks: Tracks,
        processes: Processes,
        *,
        device: torch.device,
        n_workers: int = 0,
        cache_folder: Path,
        cache_bytes: int = 0,
        loader_seed: int = 0,
    ) -> None:
        training, rank, n_ranks = preset.training, processes.rank, processes.n_ranks
        self.device, self.batch_size = device, training.batch_size // n_ranks

        def mixtures(subset: str, kept_bytes: float) -> MixtureDataset:
            closure = MixClosure(tuple(tracks[subset]), preset.mixing, preset.signal.sample_rate, seed)
            if not kept_bytes:
                return MixtureDataset(closure, preset.sources)
            # The training set is kept in full precision, since a cache must not change what is trained.
            parent, half = cache_folder / subset / "rendered", subset == "valid"
            cache = MixtureCache(closure, preset.sources, parent=parent, largest_bytes=kept_bytes, half_precision=half)
            if processes.is_first:
                cache.remove_others()
            return MixtureDataset(closure, preset.sources, cache=cache)

        size, pin_memory = self.batch_size, device.type == "cuda"
        loader = functools.partial(
            make_loader, batch_size=size, n_workers=n_workers, pin_memory=pin_memory, seed=loader_seed
        )
        # Only the mixtures of a fixed set are used again.
        self.training_mixtures = mixtures("train", cache_bytes if training.n_mixtures is not None else 0)
        self.sampler = MixtureSampler(preset, seed=seed, rank=rank, n_ranks=n_ranks)
        self.training_loader = loader(self.training_mixtures, self.sampler)
        self.validation_addresses = [(0, index) for index in range(training.n_validation_mixtures or 0)][rank::n_ranks]
        self.validation_mixtures = mixtures("valid", math.inf) if training.n_validation_mixtures else None
        self.validation_loader: Iterable[Batch] = (
            loader(self.validation_mixtures, self.validation_addresses) if self.validation_mixtures else []
        )
        longest_s = _EXCERPT_S if self.validation_mixtures else math.inf
        self.validation_songs = [
            ValidationSong(track, preset.sources, longest_s=longest_s)
            for track in tracks["valid"][rank::n_ranks]
            if len(track.sources) > 1 and any(stems_of(source, track.sources) for source in preset.sources)
        ]

    def validation_batches(self) -> Iterator[Callable[[], Batch]]:
        """Yield functions that return the batches of validation mixtures.

        On a CPU, threads read cached mixtures in a third of the time that workers need.
        """
        mixtures, addresses, n = self.validation_mixtures, self.validation_addresses, self.batch_size
        if self.device.type == "cpu" and mixtures and mixtures.cache and mixtures.cache.holds(addresses):
            for i in range(0, len(addresses), n):
                yield functools.partial(mixtures.batch, addresses[i : i + n])
        else:
            for batch in self.validation_loader:
                yield functools.partial(dict, batch)
