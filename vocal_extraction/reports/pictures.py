"""Spectrograms as PNG, small enough to stand in a page by the dozen."""

import base64
import io
import itertools

import numpy as np
import scipy.fft
from numpy.typing import NDArray

LOWEST_HZ, HIGHEST_HZ = 80.0, 16_000.0  # from the lowest voice to where coded audio ends

RANGE_DB = 75.0  # from the brightest to the darkest
_WINDOW_S = 0.093
_OVERSAMPLING = 2  # of the transform, so that the narrow rows at the bottom of the picture are not steps
_WIDTH, _HEIGHT = 480, 200
_N_SHADES = 64


def spectrogram_png(samples: NDArray[np.float32], sample_rate: int, *, full_scale: float = 1.0) -> bytes:
    """Draw the spectrogram of a clip (n_channels, n_samples) as a PNG, `full_scale` brightest."""
    from matplotlib import colormaps
    from PIL import Image

    level_db = 20 * np.log10(np.maximum(_picture(samples, sample_rate), 1e-12) / max(full_scale, 1e-12))
    shade = np.clip(1 + level_db / RANGE_DB, 0, 1) * (_N_SHADES - 1)
    image = Image.fromarray(shade[::-1].round().astype(np.uint8), mode="P")
    image.putpalette(colormaps["magma"](np.linspace(0, 1, _N_SHADES), bytes=True)[:, :3].tobytes())
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    return written.getvalue()


def peak_magnitude(samples: NDArray[np.float32], sample_rate: int) -> float:
    return float(_picture(samples, sample_rate).max(initial=0.0))


def _picture(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Return magnitudes on the picture's grid: (_HEIGHT, _WIDTH), the lowest frequency first."""
    length = 2 ** round(np.log2(_WINDOW_S * sample_rate))
    # A whole song may be drawn: only what the columns show of it is copied.
    n_samples = samples.shape[1]
    frames = np.zeros((samples.shape[0], _WIDTH, length), np.float32)
    for column, centre in enumerate(np.linspace(0, n_samples - 1, _WIDTH).astype(int)):
        start = centre - length // 2
        inside = slice(max(0, start), min(n_samples, start + length))
        frames[:, column, inside.start - start : inside.stop - start] = samples[:, inside]
    n_fft = _OVERSAMPLING * length
    spectra = scipy.fft.rfft(frames * np.hanning(length).astype(np.float32), n_fft)
    power = (np.abs(spectra) ** 2).sum(axis=0)  # (_WIDTH, n_bins)
    edges = np.geomspace(LOWEST_HZ, min(HIGHEST_HZ, sample_rate / 2), _HEIGHT + 1) * n_fft / sample_rate
    rows = [power[:, int(a) : int(b) + 1].max(axis=1) for a, b in itertools.pairwise(edges)]
    return np.sqrt(np.stack(rows))


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
