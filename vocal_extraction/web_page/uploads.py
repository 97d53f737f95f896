"""How much the server does for a session, and upload validation, by the header, before anything is decoded."""

import dataclasses
from pathlib import Path

from vocal_extraction.audio_files.ffmpeg import ProgramError
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.errors import ExtractionError, SettingsError, VocalExtractionError

_CONTAINERS = (
    "aa,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,matroska,mlp,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,nut,ogg,oma,rm,shn,sox,tak,truehd,tta,voc,w64,wav,webm,wsd,wv,xwma"
)
"""ffmpeg's names of formats that hold their audio themselves. A playlist is a format to ffmpeg, too, whatever its file
is called: it may name any song on this machine."""
_STORED, _STORED_PER_STEM = 6, 5
"""Most bytes written for a decoded one: mixture, layer outputs, previews; and for each stem its estimate at two rates,
its file, samples to play, and its place in the ZIP file."""


class RefusedError(VocalExtractionError):
    """Something that the server does not do; the text says why."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that keep one session from taking all of the disk or of the server's time."""

    upload_bytes: int = 300 * 2**20  # largest song file
    longest_s: float = 20 * 60.0  # longest song, decoded
    decoded_bytes: int = 10**9  # most that one song may decode to, as 32-bit floats
    lifetime_s: float = 3_600.0  # how long the files of a finished job are kept
    queue_length: int = 32  # jobs that may wait while one is worked on
    jobs_per_session: int = 16  # of them and the one that is worked on, how many may be one session's
    storage_bytes: int = 20 * 10**9  # what all jobs' files together may take

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        broken = [name for name, value in values.items() if not 0 < value < float("inf")]
        if broken:
            raise SettingsError(f"The page's limits must be more than 0: {', '.join(broken)}. Got {values}.")


@dataclasses.dataclass(frozen=True)
class Upload:
    """What is known of a valid upload."""

    sample_rate: int
    n_channels: int
    longest_s: float  # how much of it may be decoded, in seconds
    why: str  # what to say if it is longer
    expected_s: float  # how long it says it is; where it does not say, the longest that it may be

    def stored_bytes(self, n_stems: int) -> float:
        """Return about how many bytes its job takes on the disk, at most."""
        return self.expected_s * self.sample_rate * self.n_channels * 4 * (_STORED + _STORED_PER_STEM * n_stems)


def validate_upload(song: Path, limits: Limits) -> Upload:
    """Examine the header of a song; a RefusedError says that it is empty, no audio, or longer than `limits` allow."""
    if song.stat().st_size == 0:
        raise RefusedError(f"{song.name} is empty (0 bytes). Copy or download it again.")
    try:
        facts = examine(song, containers=_CONTAINERS)
    except ProgramError:
        raise
    except ExtractionError as error:
        raise RefusedError(f"{song.name} holds no audio that can be read. Choose an audio or video file.") from error
    bytes_per_s = facts.sample_rate * facts.n_channels * 4
    if bytes_per_s <= 0:
        raise RefusedError("The file does not say how many channels it has, or at which rate.")
    longest_s = min(limits.longest_s, limits.decoded_bytes / bytes_per_s)
    why = f"At most {longest_s / 60:.3g} minutes are taken"
    why += "." if longest_s == limits.longest_s else f" of {facts.n_channels} channels at {facts.sample_rate} Hz."
    expected_s = facts.duration_s or longest_s
    if expected_s > longest_s:
        raise RefusedError(f"{song.name} is too long: {expected_s / 60:.1f} minutes. {why}")
    return Upload(facts.sample_rate, facts.n_channels, longest_s, why, expected_s)
