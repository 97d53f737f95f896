"""The network at work: pieces of a song in, the vocals of their kept frames out.

Networks of this project go through the whole song first (`recurrence`): pieces are encoded, then decoded. Any other
hears each piece by itself, with its context. A mask model takes magnitudes and gives masks; the masked spectrum, with
the mixture's phase or one found by Griffin and Lim's method, is synthesised. An audio model takes and gives samples.
`stereo` says which channels a model hears together; the last channel is repeated where one is missing.

On a CPU the spectra are computed in blocks that fit its cache, and twice rather than stored: to write and read memory
that was just allocated costs more than the transform.

Axes: items are groups of channels of one piece, ``(n_items, n_channels, n_samples)``.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vocal_extraction.audio_files.decoding import Samples
from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.networks import MaskInference
from vocal_extraction.separation.pieces import Grid, Piece, sample_grid, spectral_grid
from vocal_extraction.separation.recurrence import Listener, layered
from vocal_extraction.separation.tapes import Tapes
from vocal_extraction.settings import ExtractionSettings, SignalSettings
from vocal_extraction.spectrogram import analyze, griffin_lim, magnitude, stft, synthesis_weight, synthesize
from vocal_extraction.stereo import as_batch, as_masks, in_groups, infer_masks, masked, n_channels_together, views_of

_BINS_TOGETHER = 600
"""Bins of all items that go through the network in one batch: two items of 257, one of 1025."""
_ON_AN_ACCELERATOR = 16
"""How many times as much an accelerator takes at once."""
_CHUNK_WITHOUT_CONTEXT_S = 4.0
"""Length of pieces, on a CPU, that no context makes costly: what runs over the bands takes 30 MB for each second."""
_BLOCK_BYTES = 2**20
"""Size of the frames that a CPU transforms at once."""


@dataclasses.dataclass(frozen=True)
class Estimator:
    """A model, and how its masks become vocals."""

    model: LoadedModel
    settings: ExtractionSettings

    @property
    def layered(self) -> MaskInference | None:
        """The network, if it can be taken through a whole song layer by layer."""
        return layered(self.model.network) if self.model.output == "mask" else None

    @property
    def grid(self) -> Grid:
        """Where the pieces that this estimator wants lie; they need no context where the network heard the song."""
        if self.model.output == "audio":
            return sample_grid(self.model.signal, self.settings)
        if self.layered is None:
            return spectral_grid(self.model.signal, self.settings)
        return self._layered_grid(self.settings.context_s if self.settings.phase == "griffin-lim" else 0.0)

    @property
    def listening_grid(self) -> Grid:
        """Where the pieces lie that the network takes in before it goes through the song."""
        return self._layered_grid(0.0)

    def _layered_grid(self, context_s: float) -> Grid:
        chunk_s = self.settings.chunk_s
        if self.model.device.type == "cpu":
            chunk_s = min(chunk_s, _CHUNK_WITHOUT_CONTEXT_S + 2 * context_s)
        return spectral_grid(
            self.model.signal, dataclasses.replace(self.settings, chunk_s=chunk_s, context_s=context_s)
        )

    @property
    def items_together(self) -> int:
        """How many items go through the network in one batch."""
        factor = 1 if self.model.device.type == "cpu" else _ON_AN_ACCELERATOR
        return max(1, factor * _BINS_TOGETHER // (self.model.signal.n_bins * self.model.n_channels))

    def pieces_together(self, n_channels: int) -> int:
        """Return how many pieces of a song with `n_channels` channels make up one batch."""
        n_items = -(-n_channels // self.channels_together(n_channels))
        return max(1, self.items_together // n_items)

    def channels_together(self, n_channels: int) -> int:
        """Return how many channels of a song with `n_channels` make up one item."""
        return n_channels_together(
            self.model.signal.stereo, n_network_channels=self.model.n_channels, n_song_channels=n_channels
        )

    @torch.inference_mode()
    def __call__(self, pieces: Sequence[Piece]) -> list[Samples]:
        """Estimate the vocals of pieces of equal length.

        Returns
        -------
        list of Samples
            For each piece what `pieces.joined` asks for: its kept frames, synthesised.
        """
        n_channels = pieces[0].samples.shape[0]
        samples = torch.from_numpy(np.stack([piece.samples for piece in pieces]))  # (n_pieces, n_channels, n_samples)
        items = in_groups(samples, self.channels_together(n_channels))
        n_items = len(items) // len(pieces)
        estimates: list[Tensor] = []
        for start in range(0, len(items), self.items_together):
            batch = items[start : start + self.items_together].to(self.model.device)
            owners = [pieces[item // n_items] for item in range(start, start + len(batch))]
            estimates += (
                self._from_audio(batch, owners) if self.model.output == "audio" else self._masked(batch, owners)
            )
        groups = [estimates[start : start + n_items] for start in range(0, len(estimates), n_items)]
        return [torch.cat(group)[:n_channels].cpu().numpy() for group in groups]

    def listener(self, tapes: Tapes) -> Listener:
        """Return what takes the network through one song.

        Raises
        ------
        ValueError
            If it cannot be taken through a song layer by layer.
        """
        if self.layered is None:
            raise ValueError("This network hears pieces, each by itself.")
        return Listener(self.layered, tapes, stretch_frames=self.listening_grid.piece_frames)

    @torch.inference_mode()
    def encode(self, piece: Piece, listener: Listener) -> None:
        """Let a network that goes through the whole song take in a piece of it."""
        magnitudes = self._magnitudes(self._items(piece).to(self.model.device))
        listener.encode(piece.first_frame, as_batch(magnitudes, n_network_channels=self.model.n_channels))

    @torch.inference_mode()
    def decode(self, piece: Piece, listener: Listener) -> Samples:
        """Estimate the vocals of a piece of a song that the network went through; otherwise as ``__call__``."""
        items = self._items(piece).to(self.model.device)
        found = listener.masks(slice(piece.first_frame, piece.first_frame + piece.n_frames))
        mask = self._vocals_mask(as_masks(found, n_items=len(items)))
        estimates = [self._synthesized(item, one, piece) for item, one in zip(items, mask, strict=True)]
        return torch.cat(estimates)[: len(piece.samples)].cpu().numpy()

    def _items(self, piece: Piece) -> Tensor:
        """Return the channels of a piece in groups: (n_items, n_channels, n_samples)."""
        samples = torch.from_numpy(piece.samples)
        return in_groups(samples.unsqueeze(0), self.channels_together(len(samples)))

    def _from_audio(self, items: Tensor, owners: Sequence[Piece]) -> list[Tensor]:
        audio = self.model.network({"mix_audio": items})["audio"][..., self.model.sources.index("vocals")]
        hop = self.model.signal.hop_length
        ends = [None if piece.is_last else piece.kept.stop * hop for piece in owners]
        return [item[:, piece.kept.start * hop : end] for item, piece, end in zip(audio, owners, ends, strict=True)]

    def _masked(self, items: Tensor, owners: Sequence[Piece]) -> list[Tensor]:
        heard = self._magnitudes(items)
        masks = infer_masks(self.model.network, heard, n_network_channels=self.model.n_channels)
        mask = self._vocals_mask(masks)  # (n_items, n_channels, n_frames, n_bins)
        return [self._synthesized(*one) for one in zip(items, mask, owners, strict=True)]

    def _vocals_mask(self, masks: Tensor) -> Tensor:
        """Choose from masks (..., n_sources) that of the vocals, made binary if that is asked for."""
        vocals = masks[..., self.model.sources.index("vocals")]
        if self.settings.mask == "soft":
            return vocals
        if masks.shape[-1] == 1:
            return (vocals > 0.5).to(vocals.dtype)
        return (masks.argmax(dim=-1) == self.model.sources.index("vocals")).to(vocals.dtype)

    def _magnitudes(self, items: Tensor) -> Tensor:
        """Transform items (n_items, n_channels, n_samples) to magnitudes (n_items, n_channels, n_frames, n_bins)."""
        signal = self.model.signal
        n_frames = (items.shape[-1] - signal.window_length) // signal.hop_length + 1
        magnitudes = items.new_empty(*items.shape[:2], n_frames, signal.n_bins)
        for frames in self._blocks(slice(0, n_frames), n_signals=items.shape[0] * items.shape[1]):
            spectrum = analyze(_span(items, frames, signal), signal=signal)
            magnitudes[:, :, frames] = magnitude(views_of(spectrum, signal.stereo))
        return magnitudes

    def _blocks(self, frames: slice, *, n_signals: int) -> Iterator[slice]:
        """Divide frames into blocks that the cache of a CPU holds; an accelerator takes all at once."""
        n_together = frames.stop - frames.start
        if self.model.device.type == "cpu":
            n_together = max(1, _BLOCK_BYTES // (4 * self.model.signal.window_length * n_signals))
        for start in range(frames.start, frames.stop, n_together):
            yield slice(start, min(start + n_together, frames.stop))

    def _synthesized(self, samples: Tensor, mask: Tensor, piece: Piece) -> Tensor:
        """Mask the kept frames of samples (n_channels, n_samples) and turn them into samples again."""
        signal, kept = self.model.signal, piece.kept
        found = self._with_new_phase(samples, mask) if self.settings.phase == "griffin-lim" else None
        estimate = samples.new_zeros(samples.shape[0], self.grid.samples_of(kept.stop - kept.start))
        for frames in self._blocks(kept, n_signals=samples.shape[0]):
            if found is None:
                spectrum = masked(
                    analyze(_span(samples, frames, signal), signal=signal), mask[:, frames], signal.stereo
                )
            else:
                spectrum = found[:, frames]
            part = synthesize(spectrum, signal=signal)
            start = (frames.start - kept.start) * signal.hop_length
            estimate[:, start : start + part.shape[1]] += part
        n_before = min(self.grid.n_beside, piece.first_frame + kept.start)
        n_after = 0 if piece.is_last else self.grid.n_beside
        return estimate / _weight(n_before, kept.stop - kept.start, n_after, signal, samples.device)

    def _with_new_phase(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Return the spectrum of the waveform that fits the masked magnitudes: (n_channels, n_frames, n_bins)."""
        signal = self.model.signal
        spectrum = masked(analyze(samples, signal=signal), mask, signal.stereo)
        n_samples = (spectrum.shape[-2] - 1) * signal.hop_length
        waveform = griffin_lim(spectrum.abs(), phase_of=spectrum, n_samples=n_samples, signal=signal)
        return stft(waveform, signal=signal)


def _span(samples: Tensor, frames: slice, signal: SignalSettings) -> Tensor:
    """Return the samples that `frames` cover."""
    end = (frames.stop - 1) * signal.hop_length + signal.window_length
    return samples[..., frames.start * signal.hop_length : end]


@functools.lru_cache(maxsize=16)
def _weight(n_before: int, n_frames: int, n_after: int, signal: SignalSettings, device: torch.device) -> Tensor:
    """Return the sum of squared windows where `n_frames` frames lie, those of the neighbours included."""
    weight = synthesis_weight(n_before + n_frames + n_after, signal=signal, device=device)
    start = n_before * signal.hop_length
    return weight[start : start + (n_frames - 1) * signal.hop_length + signal.window_length]
