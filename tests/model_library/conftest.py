"""Models with random weights in their makers' formats, and a folder of its own for what is imported."""

import numpy as np
import pytest
from foreign_models import FILTERS, FOUR, open_unmix_weights, spleeter_arrays


@pytest.fixture(autouse=True)
def models_dir(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("VOCAL_EXTRACTION_MODELS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def small_u_nets(monkeypatch):
    monkeypatch.setattr("vocal_extraction.networks.spleeter.N_FILTERS", FILTERS)


@pytest.fixture(scope="session")
def weights():
    return {source: open_unmix_weights(seed) for seed, source in enumerate(FOUR)}


@pytest.fixture(scope="session")
def arrays():
    return spleeter_arrays(0)


@pytest.fixture(scope="session")
def song():
    """A stereo song of 14 s, which ends within a hop, and is longer than a block and two stretches of a filter."""
    draw = np.random.default_rng(1)
    envelope = np.abs(np.cos(np.arange(14 * 44_100 + 345) / 9_000))[:, None]
    return (0.3 * envelope * draw.normal(size=(len(envelope), 2)).cumsum(axis=0) / 30).astype(np.float32)
