"""Each bridge carries: what nussl and scaper ask of older libraries is there, and gives the right numbers."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from vocal_extraction import compatibility
from vocal_extraction.compatibility import nussl, scaper

ROOT = Path(__file__).resolve().parent.parent
RATE = 44_100


def test_importing_compatibility_imports_nothing_slow():
    code = (
        "import sys\n"
        "from vocal_extraction import compatibility\n"
        "print({'nussl', 'scaper', 'museval', 'torch', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "set()"


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = compatibility.torch


def test_libraries_are_imported_once():
    assert compatibility.nussl is nussl
    assert compatibility.scaper is scaper
    assert "nussl" in vars(compatibility)


def test_two_threads_get_one_module_and_one_set_of_bridges(monkeypatch):
    """A bridge laid twice would take two columns from every report card."""
    laid = []
    monkeypatch.setattr(compatibility, "_bridge_report_card", lambda: laid.append(1))
    monkeypatch.setattr(compatibility, "_bridge_librosa", lambda: None)
    monkeypatch.delitem(vars(compatibility), "nussl")
    got = []
    threads = [threading.Thread(target=lambda: got.append(compatibility.__getattr__("nussl"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [nussl] * 4
    assert laid == [1]


def test_scaper_draws_with_infinity():
    assert np.Inf == np.inf  # type: ignore[attr-defined]
    spec = scaper.Scaper(5.0, str(ROOT), str(ROOT))
    assert spec.duration == 5.0


def test_museval_catches_numpys_error_by_its_old_name():
    assert np.linalg.linalg.LinAlgError is np.linalg.LinAlgError  # type: ignore[attr-defined]
    assert compatibility.museval.metrics is not None


@pytest.mark.parametrize("name", ["hamming", "hann", "blackman"])
def test_windows_are_where_nussl_reads_them(name):
    assert np.array_equal(getattr(scipy.signal, name)(16), getattr(scipy.signal.windows, name)(16))


def test_nussl_resamples_a_tone():
    """`AudioSignal.resample` passes librosa the rates by position, which librosa 0.10 forbids."""
    time_s = np.arange(RATE) / RATE
    signal = nussl.AudioSignal(audio_data_array=np.sin(2 * np.pi * 440 * time_s), sample_rate=RATE)
    signal.resample(22_050)
    assert signal.sample_rate == 22_050
    assert signal.signal_length == 22_050
    tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)
    # The resampler's filter reaches over the ends; within, a thousandth is -60 dB.
    assert np.abs(signal.audio_data[0] - tone)[500:-500].max() < 1e-3


def test_nussl_reports_scores_of_named_songs(tmp_path):
    """pandas 3 refuses to average the column of names that nussl leaves in."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(2):
        scores = {"vocals": {metric: list(rng.normal(size=2)) for metric in ("SI-SDR", "SI-SIR", "SI-SAR")}}
        path = tmp_path / f"song{i}.json"
        path.write_text(json.dumps(scores))
        paths.append(str(path))
    frame = nussl.evaluation.aggregate_score_files(paths)
    card = nussl.evaluation.report_card(frame, report_each_source=True)
    mean = frame["SI-SDR"].mean()
    assert f"{mean:.2f}" in card or f"{mean:.3f}" in card


def test_waveplot_is_waveshow():
    import librosa.display

    assert librosa.display.waveplot is librosa.display.waveshow  # type: ignore[attr-defined]
