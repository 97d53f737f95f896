"""What a song's file carries beside the sound: tags and cover, on their way into the stems' files.

ffmpeg takes tags from a small text file and the cover from a picture file; both are written once a song. Ogg holds the
cover as a tag, in the form of FLAC's picture block (RFC 9639, section 8.8).
"""

import base64
import dataclasses
import re
import struct
from pathlib import Path

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments, read_all
from vocal_extraction.audio_files.probing import Cover, SongFacts
from vocal_extraction.output_formats import Format

_FRONT_COVER = 3


@dataclasses.dataclass(frozen=True)
class Attachments:
    inputs: tuple[str, ...]  # arguments that make them ffmpeg's inputs 1 and 2
    outputs: tuple[str, ...]  # arguments that put them into what ffmpeg writes
    notes: tuple[str, ...] = ()  # what could not be taken along


def gather(facts: SongFacts, kind: Format, *, folder: Path) -> Attachments:
    """Write the tags of a song, and its cover where the format of the stems can hold one, to a temporary `folder`."""
    listed = folder / "tags.txt"
    inputs, outputs = ["-f", "ffmetadata", *input_arguments(listed)], ["-map_metadata", "1"]
    tags, notes = dict(facts.tags), []
    if facts.unreadable_cover and kind.cover:
        notes.append(f"the cover ({facts.unreadable_cover}) is of a kind that ffmpeg cannot read, and was left out")
    if facts.cover is not None and kind.cover:
        is_jpeg = facts.cover.codec == "mjpeg"
        content = _read_cover(facts.path, facts.cover, "copy" if is_jpeg or facts.cover.codec == "png" else "png")
        if not content:
            notes.append(f"the cover ({facts.cover.codec}) cannot be read and was left out")
        elif kind.cover == "tag":
            block = _picture_block(facts.cover, b"image/jpeg" if is_jpeg else b"image/png", content)
            tags["METADATA_BLOCK_PICTURE"] = base64.b64encode(block).decode()
        else:
            picture = folder / ("cover.jpg" if is_jpeg else "cover.png")
            picture.write_bytes(content)
            inputs += input_arguments(picture)
            outputs += ["-map", "2:v:0", "-c:v", "copy", "-disposition:v:0", "attached_pic"]
            outputs += ["-metadata:s:v:0", "comment=Cover (front)"]
    if facts.bext and kind.extension == "wav":
        tags |= facts.bext
        outputs += ["-write_bext", "1"]
    lines = [f"{_escaped(name)}={_escaped(value)}\n" for name, value in tags.items()]
    listed.write_text(";FFMETADATA1\n" + "".join(lines), encoding="utf-8", errors="surrogateescape")
    return Attachments(tuple(inputs), tuple(outputs), tuple(notes))


def _escaped(text: str) -> str:
    r"""Put a backslash before what has a meaning in ffmpeg's text file.

    >>> _escaped("a=b")
    'a\\=b'
    """
    return re.sub(r"([=;#\\\r\n])", r"\\\1", text.replace("\0", ""))


def _read_cover(song: Path | None, cover: Cover, coder: str) -> bytes:
    """Return the picture, as it is stored or as png, or nothing if it cannot be read: a song is not lost for that."""
    wanted = ["-map", f"0:{cover.stream_index}", "-frames:v", "1", "-c", coder, "-f", "image2pipe", "pipe:1"]
    try:
        return read_all(Ffmpeg([*input_arguments(song), *wanted], reads=True))
    except (ProgramError, OSError):
        return b""


def _picture_block(cover: Cover, media_type: bytes, content: bytes) -> bytes:
    no_description, bits_per_pixel, no_palette = 0, 24, 0
    kind = struct.pack(">II", _FRONT_COVER, len(media_type)) + media_type
    facts = (no_description, cover.width, cover.height, bits_per_pixel, no_palette, len(content))
    return kind + struct.pack(">6I", *facts) + content
