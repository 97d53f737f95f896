"""The specification's workaround: nussl's `DeepMaskEstimation`, fed by hand.

nussl's own loader rejects checkpoints whose metadata differ in the least from what it expects (tutorial issue 46). So
the network is built and its weights are put in beforehand, and device, network, config, metadata and transforms are
handed to the separator one by one. `extraction` computes the same estimates many times faster; this path is kept as
the reference that a test holds it to, and ``evaluate_model(..., separator='nussl')`` runs it.

With thanks to Emily Kuo-Wen (github.com/emilykuowen), whose hint the workaround began with.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vocal_extraction.checkpointing import LoadedModel, read_checkpoint
from vocal_extraction.evaluation.songs import EvaluationError
from vocal_extraction.stereo import channels_of, in_groups, n_channels_together, views_of


def separate_with_nussl(
    mixture: NDArray[np.float32], sample_rate: int, *, model: LoadedModel, mask: str = "soft"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Separate one mixture, the whole of it at once, through nussl's separator.

    Parameters
    ----------
    mixture
        Shape: (n_channels, n_samples).
    sample_rate
        In Hz; it must be the model's.
    model
        A mask model.
    mask
        'soft', or 'binary': with several sources the largest mask wins, with one it must exceed a half.

    Returns
    -------
    vocals, accompaniment
        Their sum is the mixture. Shapes: (n_channels, n_samples).

    Raises
    ------
    EvaluationError
        If the sample rate is another one, or the network gives waveforms.
    """
    from vocal_extraction.compatibility import nussl

    if model.output != "mask":
        raise EvaluationError(
            f"{model.path} gives waveforms; nussl's DeepMaskEstimation wants a network that gives masks."
        )
    if sample_rate != model.signal.sample_rate:
        raise EvaluationError(
            f"nussl's separator would resample the song from {sample_rate} Hz; choose separator='extraction'."
        )
    stereo = model.signal.stereo
    samples = torch.from_numpy(np.asarray(mixture, dtype=np.float64))
    n_together = n_channels_together(stereo, n_network_channels=model.n_channels, n_song_channels=len(samples))
    items = in_groups(samples.unsqueeze(0), n_together)  # (n_items, n_together, n_samples)
    heard = views_of(items.unsqueeze(2), stereo).squeeze(2)
    # nussl takes channels one by one, however many there are, for a network of one channel; else just the network's.
    signals = heard.reshape(1, -1, heard.shape[-1]) if model.n_channels == 1 else heard
    estimates = torch.cat([_estimate(nussl, signal.numpy(), model=model, mask=mask) for signal in signals])
    channels = channels_of(estimates.reshape(len(items), n_together, 1, -1), stereo).flatten(0, 2)
    vocals = channels.numpy()[: len(mixture), : mixture.shape[1]].astype(np.float32)
    return vocals, mixture - vocals


def _estimate(nussl: Any, heard: NDArray[np.float64], *, model: LoadedModel, mask: str) -> torch.Tensor:
    """Let nussl's separator estimate the vocals in what the network hears: (n_channels, n_samples)."""
    signal = nussl.AudioSignal(audio_data_array=heard, sample_rate=model.signal.sample_rate)
    separator = _separator(nussl, signal, model)
    masks = separator.forward()  # (n_bins, n_frames, n_channels, n_sources)
    if mask == "binary":
        masks = (masks > 0.5 if masks.shape[-1] == 1 else masks == masks.max(axis=-1, keepdims=True)).astype(float)
    separator.run(masks=masks)
    return torch.from_numpy(separator.make_audio_signals()[model.sources.index("vocals")].audio_data)


def _separator(nussl: Any, signal: Any, model: LoadedModel) -> Any:
    """Return a DeepMaskEstimation that holds `networks`, without its loader ever seeing the checkpoint."""
    content = read_checkpoint(model.path, with_nussl=True)
    metadata = dict(content["metadata"])
    for key in ("stft_params", "sample_rate", "num_channels"):  # older checkpoints keep these with the training data
        metadata.setdefault(key, metadata["train_dataset"].get(key))
    separator = nussl.separation.deep.DeepMaskEstimation(signal, model_path=None, device=model.device)
    separator.device = model.device
    separator.model = model.network
    separator.config = content.get("config") or metadata.get("config")
    separator.metadata.update(metadata)
    separator.transform = separator._get_transforms(metadata["train_dataset"]["transforms"])
    return separator
