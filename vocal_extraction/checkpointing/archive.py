"""The first check: a checkpoint's file, and the zip archive that it must be, which torch writes without compression."""

import io
import struct
import zipfile
from pathlib import Path

from vocal_extraction.errors import VocalExtractionError

LARGEST_BYTES = 2**30  # of a checkpoint's file
PICKLE = "data.pkl"  # the record that says what the others are
_LARGEST_PICKLE_BYTES = 2**21
_ADVICE = "Train or download it again."


class CheckpointError(VocalExtractionError):
    """A checkpoint is missing, damaged, hostile, or of a kind that is not understood."""


def reason_of(error: BaseException) -> str:
    """Return an error's text as a part of one sentence that a terminal may show, though it quotes an untrusted file."""
    text = "".join(filter(str.isprintable, " ".join(str(error).split())))
    return text[:200] or type(error).__name__


def contents_of(path: str | Path) -> bytes:
    """Return the contents of the file at `path`, if it may be a checkpoint by its size; else raise CheckpointError."""
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"No checkpoint at {path}. Train one first (python main.py train) or name another.")
        n_bytes = path.stat().st_size
        if n_bytes > LARGEST_BYTES:
            raise CheckpointError(f"{path} has {n_bytes} bytes; a checkpoint has at most {LARGEST_BYTES}.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def records_of(contents: bytes | Path, *, name: str, only: str | None = None) -> dict[str, bytes]:
    """Unpack the records that `torch.load` needs, or `only` one; a CheckpointError refuses any other archive."""
    try:
        n_bytes = contents.stat().st_size if isinstance(contents, Path) else len(contents)
        with zipfile.ZipFile(contents if isinstance(contents, Path) else io.BytesIO(contents)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            members = [member for member in members if only in (None, member.filename.partition("/")[2])]
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{name} was refused: it is compressed, which no checkpoint is.")
            if sum(member.file_size for member in members) > n_bytes:
                raise CheckpointError(f"{name} was refused: it claims to unpack to more than it holds.")
            # The one folder of the archive has the name that the file had when it was saved.
            records = {member.filename.partition("/")[2]: archive.read(member) for member in members}
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, RuntimeError, EOFError, struct.error) as error:
        raise CheckpointError(
            f"{name} is no checkpoint, or only a part of one ({reason_of(error)}). {_ADVICE}"
        ) from error
    if len(records) < len(members):
        raise CheckpointError(f"{name} was refused: two of its records have the same name.")
    if not 0 < len(records.get(PICKLE, b"")) <= _LARGEST_PICKLE_BYTES:
        raise CheckpointError(f"{name} is no checkpoint: its {PICKLE} is missing or too large. {_ADVICE}")
    kept = {PICKLE, "version", "byteorder"}
    return {record: data for record, data in records.items() if record in kept or record.startswith("data/")}


def packed(records: dict[str, bytes]) -> io.BytesIO:
    """Pack records anew, so that torch sees nothing else of the file. They are removed, to hold large weights once."""
    archive_file = io.BytesIO()
    with zipfile.ZipFile(archive_file, "w") as archive:
        for record in [*records]:
            archive.writestr(f"archive/{record}", records.pop(record))
    archive_file.seek(0)
    return archive_file
