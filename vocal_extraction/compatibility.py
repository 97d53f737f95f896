"""The few lines that let nussl 1.1.9 and scaper 1.6.5 run on current NumPy, SciPy, pandas and librosa.

Every other module writes ``from vocal_extraction.compatibility import nussl`` (or ``scaper``, or ``museval``): the
library is imported at that moment, not before, since nussl takes seconds, and what newer libraries removed is put back
first. Each bridge names the change it spans.
"""

import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

_importing = threading.RLock()


def _bridge_numpy() -> None:
    """NumPy 2.0 removed ``np.Inf`` (scaper draws with it), 2.4 ``np.linalg.linalg`` (museval catches its error)."""
    import numpy

    if not hasattr(numpy, "Inf"):
        numpy.Inf = numpy.inf  # type: ignore[attr-defined]
    if not hasattr(numpy.linalg, "linalg"):
        numpy.linalg.linalg = numpy.linalg  # type: ignore[attr-defined]


def _bridge_scipy() -> None:
    """SciPy 1.13 moved the windows out of ``scipy.signal``; nussl reads their names at import."""
    import scipy.signal

    for name in ("hamming", "hann", "blackman"):
        if not hasattr(scipy.signal, name):
            setattr(scipy.signal, name, getattr(scipy.signal.windows, name))


def _bridge_librosa() -> None:
    """librosa 0.10 renamed ``display.waveplot`` to ``waveshow`` and made the rates of ``resample`` keyword-only."""
    import librosa
    import librosa.display

    if not hasattr(librosa.display, "waveplot"):
        librosa.display.waveplot = librosa.display.waveshow  # type: ignore[attr-defined]
    keyword_only_resample = librosa.resample

    def resample(y: Any, *rates: float, **options: Any) -> Any:
        options.update(zip(("orig_sr", "target_sr"), rates, strict=False))
        return keyword_only_resample(y, **options)

    librosa.resample = resample


def _bridge_report_card() -> None:
    """pandas 3 refuses the mean of a column of strings; nussl's report card averages a frame that holds names."""
    card = importlib.import_module("nussl.evaluation.report_card")

    def numbers_only(summarize: Callable[..., Any]) -> Callable[..., Any]:
        return lambda frame, decs=2: summarize(frame.drop(columns=["source", "file"]), decs=decs)

    for name in ("_get_mean_and_std", "_get_medians"):
        setattr(card, name, numbers_only(getattr(card, name)))


def __getattr__(name: str) -> ModuleType:
    """Import `name` (nussl, scaper or museval) with its bridges in place; later imports find the finished module."""
    if name not in ("nussl", "scaper", "museval"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _importing:  # a bridge must not be laid twice
        if name in globals():
            module: ModuleType = globals()[name]
            return module
        _bridge_numpy()
        _bridge_scipy()
        if name == "nussl":
            _bridge_librosa()
        module = importlib.import_module(name)
        if name == "nussl":
            _bridge_report_card()
        globals()[name] = module
        return module
