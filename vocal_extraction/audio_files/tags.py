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
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"  # how the files begin


@dataclasses.dataclass(frozen=True)
class Attachments:
    inputs: tuple[str, ...]  # arguments that make them ffmpeg's inputs 1 and 2
    outputs: tuple[str, ...]  # arguments that put them into what ffmpeg writes
    notes: tuple[str, ...] = ()  # what could not be taken along


def gather(facts: SongFacts, kind: Format, *, folder: Path) -> Attachments:
    """Write the tags of a song, and its cover where the format of the stems can hold one, to a temporary `folder`."""
    listed = folder / "tags.txt"
    inputs, outputs = ["-f", "ffmetadata", *input_arguments(listed)], ["-map_metadata", "1"]
    tags, notes = dict(facts.tags), list(facts.cover_notes if kind.cover else ())
    if facts.cover is not None and kind.cover:
        content = _read_cover(facts.path, facts.cover, folder)
        is_jpeg = content.startswith(_JPEG)
        if not content:
            notes.append(f"the cover ({facts.cover.codec}) cannot be read and was left out")
        elif kind.cover == "tag":
            block = _picture_block(facts.cover, content, is_jpeg=is_jpeg)
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


def _read_cover(song: Path | None, cover: Cover, folder: Path) -> bytes:
    """Return the picture as jpeg or png, or nothing if it cannot be read, which is no reason to fail."""
    stored = _picture(song, cover.stream_index, "copy")
    if cover.width and stored.startswith((_JPEG, _PNG)):
        return stored
    # It is another kind of picture, perhaps another than its label says: ffmpeg finds out from the content.
    alone = folder / "picture"
    alone.write_bytes(stored)
    return _picture(alone, 0, "png")


def _picture(source: Path | None, stream_index: int, coder: str) -> bytes:
    wanted = ["-map", f"0:{stream_index}", "-frames:v", "1", "-c", coder, "-f", "image2pipe", "pipe:1"]
    try:
        return read_all(Ffmpeg([*input_arguments(source), *wanted], reads=True))
    except (ProgramError, OSError):
        return b""


def _picture_block(cover: Cover, content: bytes, *, is_jpeg: bool) -> bytes:
    no_description, bits_per_pixel, no_palette = 0, 24, 0
    media_type = b"image/jpeg" if is_jpeg else b"image/png"
    size = (cover.width, cover.height) if is_jpeg else struct.unpack(">II", content[16:24])  # of PNG's first chunk
    kind = struct.pack(">II", _FRONT_COVER, len(media_type)) + media_type
    facts = (no_description, *size, bits_per_pixel, no_palette, len(content))
    return kind + struct.pack(">6I", *facts) + content
