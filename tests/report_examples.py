"""Contents of results files, made up, with a song whose name is hostile; and what the reports make of them."""

import functools

import numpy as np

from vocal_extraction.reports.page import Example, report_page

HOSTILE = "<script>alert('x')</script> \"quoted\" & | \n 'song' \u202e"
SONGS = [HOSTILE, "A - B", "C - D"]
METRICS = ["SI-SDR", "SNR", "SRR", "SDR"]
COLUMNS = ("overall", "bass+drums+other", "vocals")


def statistics(value, *, left_out=None):
    return {"mean": value, "std": 1.5, "median": value + 0.25, "n": 3, "left_out": left_out or {}, "at_limit": []}


def definition(metric):
    family, statistic = ("bsseval_v4", "median") if metric == "SDR" else ("scale", "mean")
    return {"definition": f"what {metric} is", "family": family, "unit": "dB", "more_is_better": True,
            "statistic": statistic, "ranks": metric in ("SI-SDR", "SDR")}  # fmt: skip


def summary(*, left_out=None):
    rows = {"model": ("model", "evaluated", 1.08), "mixture": ("mixture as estimate", "baseline", -4.1),
            "ideal_ratio_mask": ("ideal ratio mask", "oracle", 7.15)}  # fmt: skip
    return {
        "evaluated": {"kind": "model", "name": "classic", "path": "models/best.model.pth", "sha256": "0" * 64,
                      "settings": {"mask": "soft"}},
        "sources": ["vocals", "bass+drums+other"],
        "definitions": {m: definition(m) for m in METRICS},
        "notes": {},
        "made": {"date": "2026-11-25", "machine": "Linux x86_64", "commit": "0123abc", "preset": "classic"},
        "data": {"folder": "dataset", "subset": "test", "duration_s": 20.4},
        "metrics": METRICS,
        "songs": SONGS,
        "rows": {
            name: {
                "title": title,
                "role": role,
                "scores": {m: {c: statistics(value, left_out=left_out) for c in COLUMNS} for m in METRICS},
            }
            for name, (title, role, value) in rows.items()
        },
        "software": {"numpy": "2"},
    }  # fmt: skip


def songs():
    sources = ("vocals", "bass+drums+other")
    return [
        {
            "song": song,
            "rows": {
                row: {"scores": {s: {m: {"value": offset + 3.0 * i} for m in METRICS} for s in sources}}
                for row, offset in (("model", -2.0), ("mixture", -6.0), ("ideal_ratio_mask", 5.0))
            },
        }
        for i, song in enumerate(SONGS)
    ]


def tone(frequency_hz, *, rate=44_100, duration_s=0.5, n_channels=2):
    t = np.arange(round(rate * duration_s)) / rate
    return np.tile(0.5 * np.sin(2 * np.pi * frequency_hz * t), (n_channels, 1)).astype(np.float32)


@functools.cache
def page():
    clips = {"Mixture": tone(440), "Vocals as estimated": tone(880)}
    return report_page(summary(), songs(), examples=[Example("best", HOSTILE, "SI-SDR", 4.0, 44_100, 0.0, clips)])


def comparison():
    """Two models on three songs, of which the second is better on two."""
    numbers = {"mean_first": 1.0, "mean_second": 2.0, "difference": 1.0, "wins": 2, "losses": 1, "ties": 0, "n": 3}
    differences = {HOSTILE: [1.0, 4.0, 3.0], "A - B": [1.0, 0.5, -0.5], "C - D": [0.0, 0.5, 0.5]}
    some = {**numbers, "songs": differences, "interval": [-0.5, 2.5]}
    metrics = {"SI-SDR": some, "SNR": {**some, "interval": None}}
    pair = {"first": "a", "second": "b", "sources": {"vocals": metrics, "bass+drums+other": metrics}}
    return {"sources": ["vocals", "bass+drums+other"], "models": {"a": summary(), "b": summary()}, "pairs": [pair]}


def history(n_epochs):
    return [
        {"epoch": i, "train_loss": 1 / i, "validation_loss": 1 / i + 0.1 * (i > 6), "learning_rate": 1e-3,
         "data_wait_share": 0.2, "mixtures_per_s": 10.0, "is_best": i <= 6}
        for i in range(1, n_epochs + 1)
    ]  # fmt: skip
