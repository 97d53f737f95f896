"""Files from elsewhere: presets and lists of models in TOML, ONNX, open-unmix's and Spleeter's weights, archives."""

import functools
import io
import tarfile
import tempfile
import unittest.mock
import zipfile
from pathlib import Path

import foreign_models
from hypothesis import strategies as st

from stress import inputs
from stress.inputs import Target, refusing

_HEADER_BYTES = 4_000
"""Of a file of weights: most of the rest is numbers, of which any will do."""


def _mutated_header(data: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(
        inputs.mutated(data[:_HEADER_BYTES]).map(lambda head: head + data[_HEADER_BYTES:]), inputs.mutated(data)
    )


def _texts_like(text: str) -> st.SearchStrategy[bytes]:
    """TOML with other keys and values, or bytes that hardly are."""
    values = st.sampled_from(
        (
            "[]",
            "{}",
            '""',
            "-1",
            "nan",
            "1e400",
            "9" * 400,
            "true",
            '["a.toml", 3]',
            "1979-05-27",
            '"\\u0000"',
        )
    )
    lines = text.splitlines()

    def put(drawn: tuple[int, str]) -> bytes:
        at, value = drawn
        return "\n".join([*lines[:at], f"{lines[at].partition('=')[0]}= {value}", *lines[at + 1 :]]).encode()

    return st.one_of(st.tuples(st.integers(0, len(lines) - 1), values).map(put), inputs.mutated(text.encode()))


_PRESET = """based_on = "classic"
name = "x"
sources = ["vocals", "drums"]
[signal]
window_length = 64
input_level_db = -20.0
[mixing]
pitch_shift_semitones = [-3.0, 3.0]
[network]
num_layers = 3
[training]
n_epochs = 4
loss = "waveform"
source_weights = [0.5, 2.0]
"""


def _take_preset(data: bytes, folder: Path) -> None:
    from vocal_extraction.presets import find_preset

    (folder / "mine.toml").write_bytes(data)
    with refusing():
        assert find_preset(folder / "mine.toml").signal.window_length > 0


def _take_list(data: bytes, folder: Path) -> None:
    from vocal_extraction.checkpointing import load_checkpoint

    (folder / "mix.toml").write_bytes(data)
    with refusing():
        assert len(load_checkpoint(folder / "mix.toml").members) > 1


@functools.cache
def _graph() -> bytes:
    from stress.file_targets import _checkpoint
    from vocal_extraction.exporting import export_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pth")
        path.write_bytes(_checkpoint())
        return export_model(str(path), output_path=Path(folder, "a.onnx"), check=False).read_bytes()


def _take_onnx(data: bytes, folder: Path) -> None:
    from vocal_extraction.checkpointing import load_checkpoint

    (folder / "a.onnx").write_bytes(data)
    with refusing():
        assert load_checkpoint(folder / "a.onnx").n_channels >= 1


@functools.cache
def _written(kind: str) -> dict[str, bytes]:
    """The files of a small model of other people's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "spleeter":
            foreign_models.write_tensorflow_checkpoint(folder, foreign_models.spleeter_arrays(0))
        else:
            weights = {"vocals": foreign_models.open_unmix_weights(0, 4)}
            foreign_models.write_open_unmix(folder, weights, old=kind == "old")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _import(path: Path) -> None:
    from vocal_extraction.model_library.files import files_at
    from vocal_extraction.model_library.formats import FORMATS

    with refusing(), files_at(path) as files:
        found = [model for convert in FORMATS if (model := convert(files, "zeros")) is not None]
        assert all(model.metadata.sources for model in found)


def _take_torch(data: bytes, folder: Path) -> None:
    (folder / "vocals-0123.pth").write_bytes(data)
    _import(folder / "vocals-0123.pth")


def _take_index(drawn: tuple[bytes, bool], folder: Path) -> None:
    """The index is read with its checksums, or as far as it can be without."""
    from vocal_extraction.model_library import tensorflow_checkpoint

    data, is_checked = drawn
    place = folder / "spleeter"
    place.mkdir(exist_ok=True)
    for name, contents in _written("spleeter").items():
        (place / name).write_bytes(data if name.endswith(".index") else contents)
    check = tensorflow_checkpoint._check if is_checked else lambda *_: None
    with unittest.mock.patch.object(tensorflow_checkpoint, "_check", check):
        _import(place)


@st.composite
def _archives(draw: st.DrawFn) -> bytes:
    """A zip or a tar of models' files under any names, perhaps damaged."""
    files = {**_written("spleeter"), "a\n": b"", **_written("new")}
    buffer, places = io.BytesIO(), [*files, *("../x", "/x", "a/../../x.pth", "data.pkl", "x/data.pkl", "ä" * 90)]
    chosen = [
        (draw(st.sampled_from(places)), files[draw(st.sampled_from([*files]))]) for _ in range(draw(st.integers(0, 4)))
    ]
    if draw(st.booleans()):
        with zipfile.ZipFile(buffer, "w", draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))) as archive:
            for name, contents in dict(chosen).items():
                archive.writestr(name, contents)
    else:
        with tarfile.TarFile(fileobj=buffer, mode="w") as tar:
            for name, contents in chosen:
                entry = tarfile.TarInfo(name)
                entry.size, entry.type = len(contents), draw(st.sampled_from((tarfile.REGTYPE, tarfile.SYMTYPE)))
                tar.addfile(entry, io.BytesIO(contents))
    whole = buffer.getvalue()
    return draw(st.one_of(st.just(whole), inputs.mutated(whole)))


def _take_archive(data: bytes, folder: Path) -> None:
    (folder / "models.whl").write_bytes(data)
    _import(folder / "models.whl")


def _indices() -> st.SearchStrategy[tuple[bytes, bool]]:
    return st.tuples(inputs.mutated(_written("spleeter")["model.index"]), st.booleans())


MODEL_TARGETS = (
    Target("presets", lambda: _texts_like(_PRESET), _take_preset, 8_000, n_guided=4_000),
    Target("lists of models", lambda: _texts_like('members = ["classic", "live"]'), _take_list, 1_000),
    Target("onnx files", lambda: _mutated_header(_graph()), _take_onnx, 6_000),
    Target("old torch files", lambda: _mutated_header(_written("old")["vocals-0123abcd.pth"]), _take_torch, 6_000),
    Target("new torch files", lambda: _mutated_header(_written("new")["vocals-0123abcd.pth"]), _take_torch, 3_000),
    Target("tensorflow indices", _indices, _take_index, 8_000),
    Target("archives of models", _archives, _take_archive, 4_000),
)
