"""What a song's file says of itself, as ffprobe reads it: tracks, durations, tags, cover."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from vocal_extraction.audio_files.ffmpeg import Program, ProgramError, input_arguments, last_line
from vocal_extraction.audio_files.integrity import find_header_damage
from vocal_extraction.errors import DamagedSongError, ExtractionError

_EXACT_CODECS = ("pcm", "flac", "alac", "wavpack", "ape", "tta")
_CODING_TAGS = {  # tags that describe the old file's coding and would be wrong of a new one
    "compatible_brands", "creation_time", "duration", "encoder", "encoding_settings", "handler_name", "itunsmpb",
    "language", "major_brand", "minor_version", "metadata_block_picture", "tlen", "tsse", "vendor_id",
}  # fmt: skip
_DROPPED_PREFIXES = ("replaygain", "r128", "id3v2_priv", "bps", "number_of_", "_statistics", "duration-")
"""Prefixes of tags with loudness, sizes or a shop's data, which are not copied."""
_BEXT_TAGS = {"description": "comment", "originator": "encoded_by", "origination_date": "date"} | {
    "origination_time": "creation_time",
    **{name: name for name in ("originator_reference", "time_reference", "umid", "coding_history")},
}
"""Fields of a broadcast wav's bext chunk: the name by which ffmpeg writes each, and that by which it reads it."""
# Codes of ISO 639 that mean the same, where one does not begin as another does.
_LANGUAGES = """
alb sqi sq, ara ar, arm hye hy, baq eus eu, bos bs, bul bg, bur mya my, chi zho zh, cze ces cs, dut nld nl, fre fra fr,
geo kat ka, ger deu de, gle ga, glg gl, gre ell el, heb he, hrv scr hr, ice isl is, ind id, jpn ja, kaz kk, lav lv,
lit lt, mac mkd mk, mao mri mi, may msa ms, per fas fa, pol pl, por pt, rum ron mo ro, slo slk sk, slv sl, spa es,
srp scc sr, swe sv, tib bod bo, tur tr, wel cym cy"""
_OFFSETS_S = (0.005, 600.0)  # shortest and longest time by which audio that begins after the picture is put off


@dataclasses.dataclass(frozen=True)
class Cover:
    stream_index: int
    codec: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class SongFacts:
    """What a file says of the audio track that is taken; of standard input nothing is known."""

    path: Path | None = None  # None is standard input
    duration_s: float | None = None  # declared duration, None where it is a guess
    is_exact: bool = False  # whether the declaration counts samples
    sample_rate: int = 0  # declared, 0 where it is not
    n_channels: int = 0  # declared, 0 where they are not
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    channel_layout: str | None = None
    cover: Cover | None = None
    complaint: str | None = None  # what the header alone shows to be wrong
    container: str = ""  # ffmpeg's name of the file's format, or 'mp3 in wav'
    track: int = 1  # number of the track among the file's audio tracks, from 1
    stream: int | None = None  # number of the track among all that the file holds, from 0
    pictures: tuple[str, ...] = ()  # codecs of what the file holds beside sound: a video, a cover
    offset_s: float = 0.0  # by how much it begins after the picture of a video
    bext: dict[str, str] = dataclasses.field(default_factory=dict)
    """Fields of a broadcast wav, by the names under which ffmpeg writes them, their bytes as surrogates if no UTF-8."""
    cover_notes: tuple[str, ...] = ()  # which pictures do not go along, or not as what they are
    notes: tuple[str, ...] = ()  # what there is to say of the choice of the track


def examine(path: Path, *, containers: str | None = None, track: str | None = None) -> SongFacts:
    """Ask what a song's file holds; raise ExtractionError if that is no audio, or not this track.

    `containers` are ffmpeg's names of the formats that it may have. `track` is the number of an audio track, from 1, or
    its language, such as 'en' or 'ger'; None is the one that players take.
    """
    _check_file(path)
    content, messages = _ask_ffprobe(path, containers)
    container, streams = content.get("format", {}), content.get("streams", [])
    tracks = [stream for stream in streams if stream.get("codec_type") == "audio"]
    if not tracks:
        raise _no_audio(path, messages, streams)
    number = _chosen_track(path, tracks, track)
    audio = tracks[number - 1]
    codec, form = audio.get("codec_name", ""), container.get("format_name", "")
    if form == "avi":
        audio["start_time"] = _avi_start_s(path, audio)
    pictures = [stream for stream in streams if _has(stream, "attached_pic")]
    main: Any = min(pictures, key=_distance_from_front, default=None)
    videos = [stream for stream in streams if stream.get("codec_type") == "video" and stream not in pictures]
    tags = audio.get("tags", {}) | container.get("tags", {})
    # No other chunk has a time reference.
    has_bext = form in ("wav", "w64") and "time_reference" in tags
    others = [_description(index, each) for index, each in enumerate(tracks, 1) if index != number]
    return SongFacts(
        path=path,
        duration_s=_declared_duration_s(audio, container, messages, is_alone=len(streams) == 1 + len(pictures)),
        # CAF counts whole packets of others; MPEG streams have times alone, from which ffmpeg guesses.
        is_exact=codec.startswith("pcm" if form == "caf" else _EXACT_CODECS) and form not in ("mpeg", "mpegts"),
        sample_rate=int(audio.get("sample_rate", 0)),
        n_channels=audio.get("channels", 0),
        tags={
            _readable(name): _readable(value)
            for name, value in tags.items()
            if name.lower() not in _CODING_TAGS and not name.lower().startswith(_DROPPED_PREFIXES)
        },
        channel_layout=audio.get("channel_layout"),
        cover=main and Cover(main["index"], main.get("codec_name", ""), main.get("width", 0), main.get("height", 0)),
        complaint=find_header_damage(path, form),
        container="mp3 in wav" if (form, codec) == ("wav", "mp3") else form,
        track=number,
        stream=audio.get("index"),
        pictures=_picture_codecs(stream for stream in streams if stream not in tracks),
        offset_s=_offset_s(audio, videos),
        bext={name: tags[read] for name, read in _BEXT_TAGS.items() if has_bext and read in tags},
        cover_notes=tuple(_cover_notes(pictures, [each for each in streams if each not in pictures], messages)),
        notes=(f"track {_description(number, audio)} was taken; others: {', '.join(others)}",) if others else (),
    )


def _ask_ffprobe(path: Path, containers: str | None) -> tuple[dict[str, Any], str]:
    """Return what ffprobe knows of a file, nothing if it fails, and its messages."""
    whitelist = [] if containers is None else ["-format_whitelist", containers]
    arguments = ["-v", "warning", "-show_streams", "-show_format", "-of", "json=string_validation=ignore"]
    with Program("ffprobe", [*arguments, *whitelist, *input_arguments(path)], reads=True) as ffprobe:
        output = b"".join(iter(ffprobe.read, b""))
        try:
            messages = ffprobe.close()
        except ProgramError:
            return {}, ffprobe.messages()
    return json.loads(output.decode(errors="surrogateescape") or "{}"), messages


def _readable(text: str) -> str:
    """Return a text of ffprobe's; one whose bytes are no UTF-8 is in Latin-1, as in wavs."""
    data = text.encode(errors="surrogateescape")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _printable(text: str) -> str:
    """Return a text of ffprobe's for a message: control characters would move a terminal's cursor, or worse."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", _readable(text))


def _picture_codecs(streams: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    codecs = {stream["codec_name"] for stream in streams if "codec_name" in stream}
    # MPEG-1 is taken for MPEG-2 until some of it was read.
    return tuple(codecs | ({"mpeg2video"} if "mpeg1video" in codecs else set()))


def _has(stream: dict[str, Any], disposition: str) -> bool:
    return bool(stream.get("disposition", {}).get(disposition))


def _kind_of(picture: dict[str, Any]) -> str:
    """Return what a picture shows, as 'Cover (back)'; nothing if the file does not say."""
    tags = picture.get("tags", {})
    return _printable(next((name for name in tags if name.startswith("Cover Art (")), tags.get("comment", "")))


def _distance_from_front(picture: dict[str, Any]) -> int:
    """Return 0 for a front cover, 1 for a picture that may be one and 2 for another, as a back cover."""
    kind = _kind_of(picture)
    return 0 if "(front)" in kind.lower() else 1 if kind in ("", "Other") else 2


def _cover_notes(pictures: list[dict[str, Any]], streams: list[dict[str, Any]], messages: str) -> Iterator[str]:
    complaints = re.findall(
        r"unknown (?:attached picture mimetype|cover type): ([^,\n]*?)\.?(?:,|$)", messages, re.I | re.M
    )
    attached = [_printable(stream.get("tags", {}).get("mimetype", "")) for stream in streams]
    kinds = [*(kind or "of no type" for kind in complaints), *(kind for kind in attached if kind.startswith("image/"))]
    if kinds:
        yield f"a picture ({_printable(kinds[0])}) is of a kind that ffmpeg cannot read, and was left out"
    chosen, *others = sorted(pictures, key=_distance_from_front) or [{}]
    if pictures and _distance_from_front(chosen) == 2:
        yield f"no picture is the front cover; {_kind_of(chosen)} was taken for it"
    if others:
        kinds = [_kind_of(picture) or "a picture of no kind" for picture in others]
        yield f"of several pictures one was taken; left out: {', '.join(kinds)}"


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ExtractionError(f"{path} is a folder, expected a song.")
    if not path.exists():
        raise ExtractionError(f"There is no file {path}. Check the name.")
    if not path.is_file():
        raise ExtractionError(f"{path} is no regular file. To read from a pipe, give - and redirect standard input.")
    if not os.access(path, os.R_OK):
        raise ExtractionError(f"{path} may not be read. Change its permissions: chmod u+r.")
    if path.stat().st_size == 0:
        raise ExtractionError(f"{path} is empty (0 bytes). Copy or download it again.")


def _no_audio(path: Path, messages: str, streams: list[dict[str, Any]]) -> ExtractionError:
    if streams:
        kinds = ", ".join(sorted({str(stream.get("codec_type")) for stream in streams}))
        return ExtractionError(f"{path} holds no audio, only {kinds}.")
    if "moov atom not found" in messages:
        return DamagedSongError(f"{path} is truncated: its table of contents (moov atom) is missing.")
    return ExtractionError(f"{path} is no audio that ffmpeg can read ({last_line(messages)}).")


def _chosen_track(path: Path, tracks: list[dict[str, Any]], wanted: str | None) -> int:
    """Return the number of the track that is asked for, or of the one that players take: the first default one."""
    numbers = range(1, len(tracks) + 1)
    if wanted is None:
        return min(numbers, key=lambda n: (not tracks[n - 1].get("codec_name"), not _has(tracks[n - 1], "default")))
    for number in numbers:
        language = tracks[number - 1].get("tags", {}).get("language", "").lower()
        same = any({language, wanted.lower()} <= {*codes.split()} for codes in _LANGUAGES.split(","))
        if wanted == str(number) or (wanted.isalpha() and language.startswith(wanted.lower())) or same:
            return number
    there = ", ".join(_description(number, tracks[number - 1]) for number in numbers)
    raise ExtractionError(f"{path} has no audio track {wanted!r}, only {there}. Choose one by its number or language.")


def _description(number: int, track: dict[str, Any]) -> str:
    words = [track.get("tags", {}).get(name) for name in ("language", "title")]
    words = [_printable(word) for word in words if word and word != "und"]
    return f"{number} ({', '.join(words)})" if words else str(number)


def _declared_duration_s(
    audio: dict[str, Any], container: dict[str, Any], messages: str, *, is_alone: bool
) -> float | None:
    """Return the duration of the audio stream if it is declared; that of the container serves an only stream."""
    declared = audio.get("duration") or (container.get("duration") if is_alone else None)
    if declared is None or "Estimating duration from bitrate" in messages or float(declared) < 0:
        return None
    # In ASF a stream's duration is the file's; in AVI it counts from the file's beginning.
    kind = container.get("format_name")
    if kind == "asf" and not is_alone:
        return None
    return float(declared) - (float(audio.get("start_time", 0)) if kind in ("asf", "avi") else 0.0)


def _avi_start_s(path: Path, audio: dict[str, Any]) -> float:
    """Return when an AVI's audio begins: its header says so (``dwStart``), or chunks are empty until then."""
    name, n_empty, n_full = b"%02dwb" % audio["index"], 0, 0
    with open(path, "rb") as file:
        at = (head := file.read(2**16)).find(b"movi") + 4
        (_, *headers) = head.split(b"strh")
        n_before = int.from_bytes(headers[audio["index"]][32:36], "little") if audio["index"] < len(headers) else 0
        while n_full < 2 and len((file.seek(at), head := file.read(8))[1]) == 8:
            size = int.from_bytes(head[4:], "little")
            n_full, n_empty = n_full + (head[:4] == name and size > 0), n_empty + (head[:4] == name and size == 0)
            at += 12 if head[:4] == b"LIST" else 8 + size + size % 2
    return (n_before + n_empty) * float(Fraction(audio["time_base"]))


def _offset_s(audio: dict[str, Any], videos: list[dict[str, Any]]) -> float:
    """Return by how much the audio begins after the picture; 0 where there is none, or it is implausible."""
    if not videos or "start_time" not in audio or "start_time" not in videos[0]:
        return 0.0
    offset_s = float(audio["start_time"]) - float(videos[0]["start_time"])
    return offset_s if _OFFSETS_S[0] <= offset_s <= _OFFSETS_S[1] else 0.0
