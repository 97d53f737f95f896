"""Other people's models with random weights, in their makers' file formats, and their arithmetic written out once more.

The arithmetic is stated from the papers and the layout of the files, on whole songs and without this program's code:
`open_unmix_estimates` on torch's own STFT and LSTM, `spleeter_estimates` on NumPy alone.
"""

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from torch.nn import functional

FOUR = ("bass", "drums", "other", "vocals")
FILTERS = (2, 3, 4, 4, 5, 5)
"""Of the small U-Nets of the tests, in place of the published 16 to 512."""

# ------------------------------------------------------------------------------------------ open-unmix


def open_unmix_weights(seed: int, hidden_size: int = 8) -> dict[str, torch.Tensor]:
    """Return the 46 tensors of one target, drawn so that masks are neither all 0 nor all the same."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=draw)

    def norm(name: str, n: int) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": 1 + normal(n, scale=0.1),
            f"{name}.bias": normal(n),
            f"{name}.running_mean": normal(n),
            f"{name}.running_var": 0.5 + normal(n).abs(),
            f"{name}.num_batches_tracked": torch.tensor(7),
        }

    half = hidden_size // 2
    lstm = {}
    for layer in range(3):
        for way in ("", "_reverse"):
            lstm[f"lstm.weight_ih_l{layer}{way}"] = normal(4 * half, hidden_size)
            lstm[f"lstm.weight_hh_l{layer}{way}"] = normal(4 * half, half)
            lstm[f"lstm.bias_ih_l{layer}{way}"] = normal(4 * half)
            lstm[f"lstm.bias_hh_l{layer}{way}"] = normal(4 * half)
    return {
        "input_mean": normal(1487),
        "input_scale": 0.5 + normal(1487).abs(),
        "output_scale": 0.3 * normal(2049).abs(),
        "output_mean": normal(2049, scale=0.5),
        "fc1.weight": normal(hidden_size, 2974, scale=0.02),
        **norm("bn1", hidden_size),
        **lstm,
        "fc2.weight": normal(hidden_size, 2 * hidden_size),
        **norm("bn2", hidden_size),
        "fc3.weight": normal(4098, hidden_size),
        **norm("bn3", 4098),
    }


def write_open_unmix(folder: Path, weights: dict[str, dict[str, torch.Tensor]], *, old: bool = True) -> Path:
    """Write a file for each target as its makers do, in torch's format of before version 1.6."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, state in weights.items():
        torch.save(state, folder / f"{source}-0123abcd.pth", _use_new_zipfile_serialization=not old)
    return folder


def open_unmix_estimates(song: np.ndarray, weights: dict[str, dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Estimate the sources of a song (n_samples, 2)."""
    return {source: inverse(spectrum, len(song)) for source, spectrum in open_unmix_spectra(song, weights)[1].items()}


def inverse(spectrum: torch.Tensor, n_samples: int) -> np.ndarray:
    """Return the samples (n_samples, 2) of a spectrum (2, n_bins, n_frames)."""
    window = torch.hann_window(4096, dtype=spectrum.real.dtype)
    samples: np.ndarray = torch.istft(spectrum, 4096, 1024, window=window, length=n_samples).T.numpy()
    return samples


def open_unmix_spectra(
    song: np.ndarray, weights: dict[str, dict[str, torch.Tensor]]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the spectra (2, n_bins, n_frames) of a song, and of its sources by their masks."""
    samples, window = torch.from_numpy(song.T.copy()), torch.hann_window(4096)
    mixture = torch.stft(samples, 4096, 1024, window=window, center=True, pad_mode="reflect", return_complex=True)
    magnitudes = mixture.abs().permute(2, 0, 1)  # (n_frames, n_channels, n_bins)
    estimates = {}
    for source, w in weights.items():

        def norm(name: str, x: torch.Tensor, w: dict[str, torch.Tensor] = w) -> torch.Tensor:
            mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
            return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

        x = (magnitudes[..., :1487] + w["input_mean"]) * w["input_scale"]
        x = torch.tanh(norm("bn1", functional.linear(x.flatten(1), w["fc1.weight"])))
        lstm = torch.nn.LSTM(x.shape[1], x.shape[1] // 2, 3, bidirectional=True)
        lstm.load_state_dict({name[5:]: values for name, values in w.items() if name.startswith("lstm.")})
        with torch.no_grad():
            x = torch.cat([x, lstm(x[:, None])[0][:, 0]], dim=-1)
        x = norm("bn2", functional.linear(x, w["fc2.weight"])).relu()
        x = norm("bn3", functional.linear(x, w["fc3.weight"])).reshape(len(x), 2, 2049)
        mask = (x * w["output_scale"] + w["output_mean"]).relu()
        estimates[source] = mixture * mask.permute(1, 2, 0)
    return mixture, estimates


# -------------------------------------------------------------------------------------------- Spleeter


def spleeter_arrays(seed: int, n_sources: int = 2) -> dict[str, np.ndarray]:
    """Return the arrays of U-Nets with `FILTERS`, by the names that TensorFlow gives to layers in their order."""
    draw = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"global_step": np.array(5, np.int64)}

    def add(kind: str, number: int, **values: np.ndarray) -> None:
        layer = f"{kind}_{number}" if number else kind
        arrays.update({f"{layer}/{name}": value.astype(np.float32) for name, value in values.items()})

    back = (*FILTERS[-2::-1], 1)
    for i in range(n_sources):
        inputs = (2, *FILTERS)
        for j, n in enumerate(FILTERS):
            add("conv2d", 7 * i + j, kernel=draw.normal(size=(5, 5, inputs[j], n)) / 4, bias=draw.normal(size=n))
        add("conv2d", 7 * i + 6, kernel=draw.normal(size=(4, 4, 1, 2)) / 9, bias=draw.normal(size=2))
        for j, n in enumerate(back):
            kernel = draw.normal(size=(5, 5, n, 2 * back[j - 1] if j else FILTERS[-1])) / 4
            add("conv2d_transpose", 6 * i + j, kernel=kernel, bias=draw.normal(size=n))
        for j, n in enumerate((*FILTERS, *back)):
            add(
                "batch_normalization",
                12 * i + j,
                gamma=draw.uniform(0.5, 1.5, n),
                beta=draw.normal(size=n),
                moving_mean=draw.normal(size=n),
                moving_variance=draw.uniform(0.5, 2, n),
            )
    return arrays


def write_tensorflow_checkpoint(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays as TensorFlow does."""
    folder.mkdir(parents=True, exist_ok=True)
    types = {"float32": 1, "int64": 9}
    entries, data = [(b"", b"\x08\x01\x1a\x02\x08\x01")], b""
    for name, values in sorted(arrays.items()):
        contents = values.tobytes()
        shape = b"".join(_field(2, _number(1, n)) for n in values.shape)
        entry = _number(1, types[str(values.dtype)]) + _field(2, shape)
        entry += _number(4, len(data)) + _number(5, len(contents)) + b"\x35" + struct.pack("<I", _checksum(contents))
        entries.append((name.encode(), entry))
        data += contents
    (folder / "model.index").write_bytes(_table(entries))
    (folder / "model.data-00000-of-00001").write_bytes(data)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model"\n')
    return folder


def _table(entries: list[tuple[bytes, bytes]], n_in_a_block: int = 20) -> bytes:
    """Return a table of LevelDB's, in several blocks, whose keys are shortened by what they share."""
    table, index = b"", []
    for start in range(0, len(entries), n_in_a_block):
        block = _block(entries[start : start + n_in_a_block])
        index.append((entries[start : start + n_in_a_block][-1][0], _varint(len(table)) + _varint(len(block) - 5)))
        table += block
    handles = b""
    for block in (_block([]), _block(index)):
        handles += _varint(len(table)) + _varint(len(block) - 5)
        table += block
    return table + handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    block, restarts, before = b"", [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % 16 == 0:
            restarts = [*restarts[: number // 16], len(block)]
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        block += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        before = key
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + b"\0"
    return block + struct.pack("<I", _checksum(block))


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + _varint(number // 128)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, contents: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(contents)) + contents


def _checksum(contents: bytes) -> int:
    value = google_crc32c.value(contents)
    return ((value >> 15 | value << 17) + 0xA282EAD8) % 2**32


def spleeter_estimates(
    song: np.ndarray, arrays: dict[str, np.ndarray], sources: tuple[str, ...], *, high: str = "zeros"
) -> dict[str, np.ndarray]:
    """Estimate the sources of a song (n_samples, 2)."""
    padded = np.pad(song.T, ((0, 0), (4096, 0)))
    n_frames = -(-padded.shape[1] // 1024)
    padded = np.pad(padded, ((0, 0), (0, n_frames * 1024 + 4096 - padded.shape[1])))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4096) / 4096)
    starts = range(0, n_frames * 1024, 1024)
    spectrum = np.fft.rfft(np.stack([padded[:, s : s + 4096] * window for s in starts]))  # (n_frames, 2, n_bins)
    seen = np.abs(spectrum)[..., :1024]
    seen = np.pad(seen, ((0, -n_frames % 512), (0, 0), (0, 0)))
    outputs = np.stack([_u_net_of_song(seen, arrays, i, len(sources)) for i in range(len(sources))])
    masks = (outputs**2 + 1e-10 / len(sources)) / ((outputs**2).sum(axis=0) + 1e-10)
    above = masks.mean(axis=-1, keepdims=True) if high == "average" else np.zeros_like(masks[..., :1])
    masks = np.concatenate([masks, np.repeat(above, 1025, axis=-1)], axis=-1)[:, :n_frames]
    estimates = {}
    for source, mask in zip(sources, masks, strict=True):
        out = np.zeros(padded.shape)
        for s, frame in zip(starts, np.fft.irfft(mask * spectrum) * window * 2 / 3, strict=True):
            out[:, s : s + 4096] += frame
        estimates[source] = out[:, 4096 : 4096 + len(song)].T
    return estimates


def _u_net_of_song(seen: np.ndarray, arrays: dict[str, np.ndarray], number: int, n_sources: int) -> np.ndarray:
    blocks = [
        _u_net(seen[s : s + 512].transpose(0, 2, 1), arrays, number, n_sources).transpose(0, 2, 1)
        for s in range(0, len(seen), 512)
    ]
    return np.concatenate(blocks) * seen


def _u_net(x: np.ndarray, arrays: dict[str, np.ndarray], number: int, n_sources: int) -> np.ndarray:
    """Return the mask of one block; arrays are (n_frames, n_bins, n_channels), as TensorFlow has them."""

    def layer(kind: str, i: int, of: int) -> dict[str, np.ndarray]:
        name = f"{kind}_{of * number + i}" if of * number + i else kind
        return {key.split("/")[1]: values for key, values in arrays.items() if key.startswith(f"{name}/")}

    def norm(i: int, y: np.ndarray) -> np.ndarray:
        w = layer("batch_normalization", i, 12)
        return (y - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 1e-3) * w["gamma"] + w["beta"]

    def elu(y: np.ndarray) -> np.ndarray:
        return np.where(y > 0, y, np.expm1(np.minimum(y, 0)))

    down = elu if n_sources == 4 else lambda y: np.where(y > 0, y, 0.2 * y)
    up = elu if n_sources == 4 else lambda y: np.maximum(y, 0)
    convolved = []
    for i in range(6):
        w = layer("conv2d", i, 7)
        padded = np.pad(x, ((1, 2), (1, 2), (0, 0)))
        n, m = x.shape[0], x.shape[1]
        y = sum(padded[a : a + n : 2, b : b + m : 2] @ w["kernel"][a, b] for a in range(5) for b in range(5))
        convolved.append(y + w["bias"])
        x = down(norm(i, convolved[-1]))
    x = convolved.pop()
    for i in range(6):
        w = layer("conv2d_transpose", i, 6)
        n, m = x.shape[0], x.shape[1]
        y = np.zeros((2 * n + 3, 2 * m + 3, w["kernel"].shape[2]))
        for a in range(5):
            for b in range(5):
                y[a : a + 2 * n : 2, b : b + 2 * m : 2] += x @ w["kernel"][a, b].T
        x = norm(6 + i, up(y[1:-2, 1:-2] + w["bias"]))
        if convolved:
            x = np.concatenate([convolved.pop(), x], axis=-1)
    w = layer("conv2d", 6, 7)
    n, m = x.shape[0], x.shape[1]
    padded = np.pad(x, ((3, 3), (3, 3), (0, 0)))
    y = sum(padded[2 * a : 2 * a + n, 2 * b : 2 * b + m] @ w["kernel"][a, b] for a in range(4) for b in range(4))
    return 1 / (1 + np.exp(-(y + w["bias"])))
