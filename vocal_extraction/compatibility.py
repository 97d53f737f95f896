"""Bridges that let nussl 1.1.9, scaper 1.6.5 and museval run on current NumPy, SciPy, pandas, librosa and torch.

`install` adds an import hook: when one of these libraries is imported, from wherever, the bridges in `BEFORE` run
first and those in `AFTER` right after. Nothing is imported before that, since nussl takes seconds. This package's own
modules write ``from vocal_extraction.compatibility import nussl`` (or ``scaper``, or ``museval``).
"""

import collections
import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

TRANSFORMS_MODULE = "nussl.datasets.transforms"
TRANSFORMS = (  # nussl's transforms that only hold settings; `Cache`, which opens files, is not among them
    "Compose", "SumSources", "MagnitudeSpectrumApproximation", "PhaseSensitiveSpectrumApproximation",
    "MagnitudeWeights", "IndexSources", "GetExcerpt", "GetAudio", "ToSeparationModel", "LabelsToOneHot",
)  # fmt: skip
STFT_PARAMS = "nussl.core.audio_signal.STFTParams"
PLAIN_CLASSES = (STFT_PARAMS, *(f"{TRANSFORMS_MODULE}.{name}" for name in TRANSFORMS))
NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # for NumPy 1 and 2
NUMPY_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b"}
NUMPY_FORMATS |= {"u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?"}
"""NumPy's codes of the scalars that metadata may hold, and how `struct` spells them."""


def _bridge_numpy() -> None:
    """NumPy 2 removed ``np.Inf`` (scaper) and ``np.mat`` (nussl), 2.4 ``np.linalg.linalg`` (museval)."""
    import numpy

    numpy.Inf, numpy.mat = numpy.inf, numpy.asmatrix  # type: ignore[attr-defined]
    numpy.linalg.linalg = numpy.linalg  # type: ignore[attr-defined]


def _bridge_scipy() -> None:
    """SciPy 1.13 moved the windows out of ``scipy.signal``; nussl reads their names at import."""
    import scipy.signal

    for name in ("hamming", "hann", "blackman"):
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))


def _bridge_numba() -> None:
    """numba caches a `guvectorize` (librosa's) in two files, linked by numbers that depend on what else it compiled.

    A process that finds files of two others, which compiled in different orders, crashes. Counted by name, as in
    numba's pull request 10545, the numbers do not depend on the order.
    """
    identity = sys.modules["numba.core.bytecode"].FunctionIdentity
    from_function, counts = identity.from_function, collections.Counter[str]()

    def numbered(function: Any) -> Any:
        found = from_function(function)
        counts[found.func_qualname] += 1
        found.unique_id = counts[found.func_qualname]
        found.unique_name = f"{found.func_qualname}${found.unique_id}"
        return found

    identity.from_function = staticmethod(numbered)


def _bridge_soundfile() -> None:
    """soundfile refuses names of files with bytes that are no UTF-8, which Python lists."""
    import soundfile

    strict = soundfile.SoundFile._open
    soundfile.SoundFile._open = lambda self, file, *rest: strict(
        self, os.fsencode(file) if isinstance(file, str) else file, *rest
    )


def _bridge_librosa() -> None:
    """librosa 0.10 made parameters keyword-only that nussl gives by position."""
    import librosa
    import librosa.feature
    import librosa.filters

    def by_position(function: Callable[..., Any], parameters: Sequence[str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            return function(**dict(zip(parameters, arguments, strict=False)), **options)

        return called

    for module, name, parameters in (
        (librosa, "resample", ("y", "orig_sr", "target_sr")),
        (librosa.feature, "rms", ("y",)),
        (librosa.feature, "melspectrogram", ("y",)),
        (librosa.filters, "mel", ("sr", "n_fft", "n_mels")),
    ):
        setattr(module, name, by_position(getattr(module, name), parameters))


def _bridge_librosa_display() -> None:
    """librosa 0.10 renamed ``waveplot``; 0.11 gave ``__scale_axes``, which nussl calls, two parameters more."""
    display: Any = sys.modules["librosa.display"]
    display.waveplot = display.waveshow
    vars(display)["__scale_axes"].__defaults__ = (16, 480)  # of tempo_min and tempo_max


def _bridge_equality() -> None:
    """NumPy 2.2 raises on the truth of an empty array; nussl's comparisons meet one where one side has no data."""
    import numpy

    def equal(one: Any, other: Any) -> bool:
        if not isinstance(other, type(one)) or vars(one).keys() != vars(other).keys():
            return False
        return all(
            numpy.array_equal(value, vars(other)[name])
            if isinstance(value, numpy.ndarray)
            else not numpy.any(value != vars(other)[name])
            for name, value in vars(one).items()
        )

    nussl = sys.modules["nussl"]
    for kind in (nussl.AudioSignal, nussl.separation.base.SeparationBase):
        kind.__eq__ = equal


def _bridge_report_card() -> None:
    """pandas 3 refuses the mean of a column of strings; nussl's report card averages a frame that holds names."""
    card = importlib.import_module("nussl.evaluation.report_card")

    def numbers_only(summarize: Callable[..., Any], frame: Any, decs: int = 2) -> Any:
        return summarize(frame.drop(columns=["source", "file"]), decs=decs)

    for name in ("_get_mean_and_std", "_get_medians"):
        setattr(card, name, functools.partial(numbers_only, getattr(card, name)))


def _bridge_overlap_add() -> None:
    """SciPy 1.1 named the window ``hann`` alone; nussl's `OverlapAdd` asks for ``hanning``."""
    overlap_add = importlib.import_module("nussl.separation.composite.overlap_add").OverlapAdd
    for function in (overlap_add.__init__, overlap_add.overlap_and_add):
        function.__defaults__ = tuple("hann" if value == "hanning" else value for value in function.__defaults__)


class _Cache:
    """A zarr array of pickled dictionaries, as nussl's `Cache` uses one."""

    def __init__(self, array: Any) -> None:
        self._array, self.info = array, array.info

    def __setitem__(self, index: int, data: Any) -> None:
        import numcodecs
        import numpy

        self._array[index : index + 1] = numpy.array([numcodecs.Pickle().encode(data)], dtype=object)

    def __getitem__(self, index: int) -> Any:
        """Return an item; None where none was written."""
        import numcodecs.pickles

        pickled = self._array[index : index + 1][0]
        before = numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE
        # The folder is the caller's own, who wrote what is in it.
        numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE = True
        try:
            return numcodecs.Pickle().decode(pickled) if pickled else None
        finally:
            numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE = before


def _open_cache(location: str, *, mode: str, shape: tuple[int, ...] = (), chunks: Any = None, **_: Any) -> _Cache:
    import zarr
    import zarr.dtype

    if mode == "r":
        return _Cache(zarr.open_array(location, mode="r"))
    items = zarr.dtype.VariableLengthBytes()
    return _Cache(zarr.open_array(location, mode="w", shape=shape, chunks=chunks, dtype=items, zarr_format=2))


def _bridge_zarr() -> None:
    """zarr 3 has neither ``ThreadSynchronizer`` nor arrays of objects, in which nussl's `Cache` keeps its items."""
    transforms: Any = importlib.import_module(TRANSFORMS_MODULE)
    transforms.zarr = types.SimpleNamespace(open=_open_cache, ThreadSynchronizer=lambda: None)


def _bridge_module_snapshots() -> None:
    """Python 3.11 raises OSError where a class has no source file; nussl expects TypeError."""
    model: Any = importlib.import_module("nussl.ml.networks.separation_model")
    inspect = model.inspect

    def source_of(thing: Any) -> str:
        try:
            return str(inspect.getsource(thing))
        except OSError as error:
            raise TypeError(str(error)) from error

    model.inspect = types.SimpleNamespace(getsource=source_of)


def _allow_plain_classes() -> None:
    """torch 2.6 reads files with ``weights_only``, which refuses nussl's classes; stand-ins import nussl for them."""
    import numpy
    import torch

    scalar = numpy._core.multiarray.scalar  # type: ignore[attr-defined]
    numbers = [type(numpy.dtype(code)) for code in NUMPY_FORMATS]
    allowed: list[Any] = [numpy.dtype, *numbers, *((scalar, name) for name in NUMPY_SCALARS)]
    if "nussl" not in sys.modules:
        allowed += [(_stand_in(path), path) for path in PLAIN_CLASSES]
    torch.serialization.add_safe_globals(allowed)


_STAND_INS: list[type] = []


def _stand_in(path: str) -> type:
    module, _, name = path.rpartition(".")

    def new(_: type, *arguments: Any) -> Any:
        real = getattr(importlib.import_module(module), name)
        return real.__new__(real, *arguments)

    _STAND_INS.append(type(name, (), {"__new__": new, "__module__": f"{__name__}.stand_ins"}))
    return _STAND_INS[-1]


def _allow_nussls_classes() -> None:
    """Replace the stand-ins by nussl's classes; a file that is being read may still refer to the stand-ins."""
    import torch

    known: list[Any] = torch.serialization.get_safe_globals()
    # Stand-ins are kept without the names that they stand for: they may be called, but are no longer found.
    kept = [each[0] if isinstance(each, tuple) and each[0] in _STAND_INS else each for each in known]
    torch.serialization.clear_safe_globals()
    nussl = sys.modules["nussl"]
    classes = [getattr(nussl.datasets.transforms, name) for name in TRANSFORMS]
    torch.serialization.add_safe_globals([*kept, nussl.STFTParams, *classes])


BEFORE: dict[str, list[Callable[[], None]]] = {  # what is done before a library is imported
    name: [_bridge_numpy, _bridge_scipy] for name in ("nussl", "scaper", "museval")
}
AFTER: dict[str, list[Callable[[], None]]] = {  # what is done right after
    "nussl": [
        *(_bridge_librosa, _bridge_equality, _bridge_report_card, _bridge_overlap_add, _bridge_zarr),
        *(_bridge_module_snapshots, _allow_nussls_classes),
    ],
    "librosa.display": [_bridge_librosa_display],
    "numba.core.bytecode": [_bridge_numba],
    "soundfile": [_bridge_soundfile],
    "torch": [_allow_plain_classes],
}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in BEFORE and name not in AFTER:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def bridged(module: types.ModuleType) -> None:
            for bridge in BEFORE.get(name, ()):
                bridge()
            execute(module)
            for bridge in AFTER.get(name, ()):
                bridge()

        spec.loader.exec_module = bridged  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Apply the bridges when these libraries are imported, and at once to those that are imported already."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name in [name for name in AFTER if name in sys.modules]:
        for bridge in AFTER[name]:
            bridge()


def __getattr__(name: str) -> types.ModuleType:
    if name not in BEFORE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = importlib.import_module(name)
    return globals()[name]
