"""ffmpeg and ffprobe that stand still, are missing or fail."""

import os

import numpy as np
import pytest

from vocal_extraction.audio_files.encoding import StemWriter, choose_coding
from vocal_extraction.audio_files.ffmpeg import Ffmpeg, Program, ProgramError, last_line
from vocal_extraction.settings import ExtractionSettings


def test_ffmpeg_that_stands_still_is_ended(monkeypatch):
    monkeypatch.setattr("vocal_extraction.audio_files.ffmpeg.STANDSTILL_S", 0.3)
    endless = ["-f", "s16le", "-ar", "8000", "-ac", "1", "-i", "pipe:0", "-f", "wav", "pipe:1"]
    standing = os.pipe()
    before = os.dup(0)
    os.dup2(standing[0], 0)
    try:
        with Ffmpeg(endless, reads=True) as child, pytest.raises(ProgramError, match="stood still"):
            list(iter(child.read, b""))
    finally:
        os.dup2(before, 0)
        for number in (*standing, before):
            os.close(number)


def test_ffprobe_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("vocal_extraction.audio_files.ffmpeg.STANDSTILL_S", 0.1)
    with Program("/bin/sleep", ["9"], reads=True) as child, pytest.raises(ProgramError, match="stood still"):
        child.read()


def test_an_encoder_that_fails_is_quoted(tmp_path):
    coding = choose_coding(ExtractionSettings(format="ogg"), sample_rate=44_100, n_channels=2, channel_layout=None)
    with StemWriter(tmp_path / "no" / "such" / "folder.ogg", coding) as writer, pytest.raises(ProgramError) as failure:
        _fill(writer)
    assert "No such file or directory" in str(failure.value)


def _fill(writer):
    for _ in range(100):
        writer.encode(np.zeros((100_000, 2), np.float32))
    writer.close()


def test_last_words_are_found():
    assert last_line("") == "no reason given"
    assert last_line("one\n[flac @ 0x1] two\n\n") == "two"
