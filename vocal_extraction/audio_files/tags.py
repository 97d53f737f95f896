"""What a song's file carries beside the sound: tags and cover, on their way into the stems' files.

ffmpeg takes tags from a small text file and the cover from a picture file; Ogg holds the cover as a tag, in the form
of FLAC's picture block (RFC 9639, section 8.8).
"""

import base64
import dataclasses
import re
import struct
from pathlib import Path

from vocal_extraction.audio_files.decoding import Cover, SongFacts
from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments

_PICTURES = {"png": ("png", "image/png"), "mjpeg": ("jpg", "image/jpeg")}
"""Ending and media type of the pictures that every format here can hold, by ffmpeg's name."""
_FRONT_COVER = 3
_WITH_PICTURES = ("mp3", "m4a", "flac")


@dataclasses.dataclass(frozen=True)
class Attachments:
    """Files that ffmpeg reads beside the samples."""

    tags: Path
    picture: Path | None

    def inputs(self) -> list[str]:
        """Return the arguments that make them ffmpeg's inputs 1 and 2."""
        picture = [] if self.picture is None else input_arguments(self.picture)
        return ["-f", "ffmetadata", *input_arguments(self.tags), *picture]

    def outputs(self) -> list[str]:
        """Return the arguments that put them into what ffmpeg writes."""
        cover = ["-map", "2:v:0", "-c:v", "copy", "-disposition:v:0", "attached_pic"]
        return ["-map_metadata", "1", *(cover if self.picture is not None else [])]


def gather(facts: SongFacts | None, *, extension: str, folder: Path) -> Attachments:
    """Write the tags of a song, and its cover where the format can hold one, to `folder`.

    Parameters
    ----------
    facts
        What the song's file says, None for standard input.
    extension
        Ending of the files to be written.
    folder
        A temporary folder.
    """
    tags = {} if facts is None else dict(facts.tags)
    picture = None
    if facts is not None and facts.cover is not None and facts.cover.codec in _PICTURES:
        content = _read_cover(facts.path, facts.cover)
        if content and extension in _WITH_PICTURES:
            picture = folder / f"cover.{_PICTURES[facts.cover.codec][0]}"
            picture.write_bytes(content)
        elif content and extension == "ogg":
            tags["METADATA_BLOCK_PICTURE"] = base64.b64encode(_picture_block(facts.cover, content)).decode()
    listed = folder / "tags.txt"
    lines = [f"{_escaped(name)}={_escaped(value)}\n" for name, value in tags.items()]
    listed.write_text(";FFMETADATA1\n" + "".join(lines), encoding="utf-8", errors="replace")
    return Attachments(listed, picture)


def _escaped(text: str) -> str:
    r"""Put a backslash before what has a meaning in ffmpeg's text file.

    >>> _escaped("a=b")
    'a\\=b'
    """
    return re.sub(r"([=;#\\\n])", r"\\\1", text.replace("\0", ""))


def _read_cover(song: Path, cover: Cover) -> bytes:
    """Return the picture as it is stored, or nothing if it cannot be read: a song is not lost for that."""
    wanted = ["-map", f"0:{cover.stream_index}", "-frames:v", "1", "-c", "copy", "-f", "image2pipe", "pipe:1"]
    parts: list[bytes] = []
    try:
        with Ffmpeg([*input_arguments(song), *wanted], reads=True) as ffmpeg:
            while part := ffmpeg.read():
                parts.append(part)
            ffmpeg.close()
    except (ProgramError, OSError):
        return b""
    return b"".join(parts)


def _picture_block(cover: Cover, content: bytes) -> bytes:
    media_type = _PICTURES[cover.codec][1].encode()
    no_description, bits_per_pixel, no_palette = 0, 24, 0
    return (
        struct.pack(">II", _FRONT_COVER, len(media_type))
        + media_type
        + struct.pack(">IIIIII", no_description, cover.width, cover.height, bits_per_pixel, no_palette, len(content))
        + content
    )
