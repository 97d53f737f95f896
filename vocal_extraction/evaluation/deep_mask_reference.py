"""The specification's workaround for tutorial issue 46: nussl's `DeepMaskEstimation` with all attributes set by hand.

`Separator` computes the same estimates many times faster; a test compares the two.

With thanks to Emily Kuo-Wen (github.com/emilykuowen), whose hint the workaround began with.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.evaluation.metrics import EvaluationError
from vocal_extraction.separation import input_conditioning as conditioning
from vocal_extraction.separation.masking import channels_of, views_of


def separate_with_nussl(
    mixture: NDArray[np.float32], sample_rate: int, *, model: LoadedModel, mask: str = "soft"
) -> dict[str, NDArray[np.float32]]:
    """Estimate all sources of a mixture, (n_channels, n_samples), at once, through nussl's separator.

    A 'binary' mask takes the largest of several sources; one alone must exceed a half.
    """
    from vocal_extraction.compatibility import nussl

    if model.output != "mask":
        raise EvaluationError(f"{model.path} is no network that gives masks, which nussl's DeepMaskEstimation wants.")
    if sample_rate != model.signal.sample_rate:
        raise EvaluationError(
            f"The song has {sample_rate} Hz, the model {model.signal.sample_rate} Hz, and nussl's separator does not "
            "resample. Leave separator='extraction', which does."
        )
    stereo, level_db = model.signal.stereo, model.signal.input_level_db
    covariances = conditioning.covariances_of(mixture.T, sample_rate)
    gain = conditioning.input_gain(covariances, level_db)
    channels_of_items = conditioning.channel_groups(covariances, stereo, model.n_channels)
    song = mixture if level_db is None else gain * conditioning.without_slow_waves(mixture, sample_rate)
    # (n_items, n_channels_together, n_samples)
    items = torch.from_numpy(np.asarray(song, dtype=np.float64)[channels_of_items])
    views = views_of(items.unsqueeze(2), stereo).squeeze(2)
    # nussl takes channels one by one, however many there are, for a network of one channel; else just the network's.
    signals = views.reshape(1, -1, views.shape[-1]) if model.n_channels == 1 else views
    estimates = torch.cat([_estimate(nussl, signal.numpy(), model=model, mask=mask) for signal in signals], dim=1)
    grouped = estimates.reshape(len(model.sources), *items.shape[:2], 1, -1)
    _, first = np.unique(channels_of_items, return_index=True)
    channels = channels_of(grouped, stereo).flatten(1, 3).numpy()[:, first, : mixture.shape[1]] / gain
    return dict(zip(model.sources, channels.astype(np.float32), strict=True))


def _estimate(nussl: Any, views: NDArray[np.float64], *, model: LoadedModel, mask: str) -> torch.Tensor:
    """Let nussl's separator estimate all sources of a network's input: (n_sources, n_channels, n_samples)."""
    signal = nussl.AudioSignal(audio_data_array=views, sample_rate=model.signal.sample_rate)
    separator = nussl.separation.deep.DeepMaskEstimation(signal, model_path=None, device=model.device)
    separator.device = model.device
    separator.model = model.network
    separator.config = {"name": "network"}
    separator.metadata.update(metadata := model.metadata.stored())
    separator.transform = separator._get_transforms(metadata["train_dataset"]["transforms"])
    masks = separator.forward()  # (n_bins, n_frames, n_channels, n_sources)
    if mask == "binary":
        masks = (masks > 0.5 if masks.shape[-1] == 1 else masks == masks.max(axis=-1, keepdims=True)).astype(float)
    separator.run(masks=masks)
    return torch.from_numpy(np.stack([estimate.audio_data for estimate in separator.make_audio_signals()]))
