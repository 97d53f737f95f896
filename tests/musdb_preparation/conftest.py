"""Made songs in both of MUSDB18's forms, made once for all tests of the preparation."""

import pytest
from musdb_forms import make_coded_folder, make_hq_folder


@pytest.fixture(autouse=True)
def _no_source_from_outside(monkeypatch):
    monkeypatch.delenv("MUSDB_PATH", raising=False)


@pytest.fixture(scope="session")
def hq_folder(tmp_path_factory):
    """Songs as wavs, below a parent with a stem's name in its name."""
    return make_hq_folder(tmp_path_factory.mktemp("vocals-project") / "musdb18hq")


@pytest.fixture(scope="session")
def coded_folder(hq_folder, tmp_path_factory):
    """The same songs as stem files."""
    return make_coded_folder(hq_folder, tmp_path_factory.mktemp("vocals-project") / "musdb18")
