"""Whether a song may come in: asked of its file before any of it is decoded, and again while it is.

A visitor's file may be anything. What a header says is not to be believed either, so how much may be decoded
is a number of seconds that holds to the end, however long the file claims to be.
"""

import dataclasses
from pathlib import Path

from vocal_extraction.audio_files.ffmpeg import ProgramError
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.web_page.limits import Limits

_CONTAINERS = (
    "aa,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,matroska,mlp,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,nut,ogg,oma,rm,shn,sox,tak,truehd,tta,voc,w64,wav,webm,wsd,wv,xwma"
)
"""ffmpeg's names of formats that hold their audio themselves. A playlist is a format to ffmpeg, too, whatever its file
is called: it may name any song on this machine."""

_FLOAT_BYTES = 4
_STORED_PER_DECODED = 5
"""Most bytes that are written for a decoded one, beside the tapes: mixture and vocals as floats, two stems, what is
listened to."""


class RefusedError(VocalExtractionError):
    """Something that the page does not do; the text says why."""


@dataclasses.dataclass(frozen=True)
class Admission:
    """What is known of a song that may come in."""

    sample_rate: int
    n_channels: int
    longest_s: float
    """How much of it may be decoded, in seconds."""
    why: str
    """What to say if it is longer."""
    expected_s: float
    """How long it says it is; where it does not say, the longest that it may be."""

    def stored_bytes(self, *, taped_bytes: float) -> float:
        """Return about what it will take of the disk, at most, if a second of it takes so much tape."""
        decoded_bytes = self.sample_rate * self.n_channels * _FLOAT_BYTES
        return self.expected_s * (_STORED_PER_DECODED * decoded_bytes + taped_bytes)


def admit(song: Path, limits: Limits) -> Admission:
    """Look at the header of a song.

    Raises
    ------
    RefusedError
        If it is empty, no audio, or longer than `limits` allow.
    ExtractionError
        If ffprobe is missing, or makes nothing of it within a minute.
    """
    if song.stat().st_size == 0:
        raise RefusedError(f"{song.name} is empty (0 bytes). Copy or download it again.")
    try:
        facts = examine(song, containers=_CONTAINERS)
    except ProgramError:
        raise
    except ExtractionError as error:
        raise RefusedError(f"{song.name} holds no audio that can be read. Choose an audio or video file.") from error
    admission = _measured(facts.sample_rate, facts.n_channels, limits)
    declared_s = facts.duration_s or admission.longest_s
    if declared_s > admission.longest_s:
        raise RefusedError(f"{song.name} is too long: {declared_s / 60:.1f} minutes. {admission.why}")
    return dataclasses.replace(admission, expected_s=declared_s)


def _measured(sample_rate: int, n_channels: int, limits: Limits) -> Admission:
    bytes_per_s = sample_rate * n_channels * _FLOAT_BYTES
    if bytes_per_s <= 0:
        raise RefusedError("The file does not say how many channels it has, or at which rate.")
    longest_s = min(limits.longest_s, limits.decoded_bytes / bytes_per_s)
    why = f"At most {longest_s / 60:.3g} minutes are taken"
    why += "." if longest_s == limits.longest_s else f" of {n_channels} channels at {sample_rate} Hz."
    return Admission(sample_rate, n_channels, longest_s, why, expected_s=longest_s)
