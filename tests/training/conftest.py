"""The songs that tests train on, and a place of its own for each run."""

import pytest


@pytest.fixture
def dataset(tmp_path, demo_dataset):
    """The demo songs in a folder of one's own: training keeps rendered mixtures beside them."""
    for subset in ("train", "valid"):
        (tmp_path / "dataset" / subset).mkdir(parents=True)
        for part in ("foreground", "background", "mixture"):
            (tmp_path / "dataset" / subset / part).symlink_to(demo_dataset / subset / part)
    return tmp_path / "dataset"


@pytest.fixture
def one_core(monkeypatch):
    """Threads that share a recurrent step crawl where another process holds a core; tests run beside others."""
    monkeypatch.setattr("vocal_extraction.training.resources._n_cores", lambda: 1)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Nothing is prepared from elsewhere, and what is converted lies here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSDB_PATH", raising=False)
