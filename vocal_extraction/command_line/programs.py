"""Where sox and ffmpeg are found: on the PATH, where stempeg and pysox look, too, or where two variables point."""

import os
from collections.abc import MutableMapping
from pathlib import Path

PROGRAM_VARIABLES = {"sox": "SOX_PATH", "ffmpeg": "FFMPEG_PATH"}  # environment variables that say where they are


def put_programs_on_path(environment: MutableMapping[str, str] = os.environ) -> None:
    """Put the folders that SOX_PATH and FFMPEG_PATH name in front of the PATH; doing it twice changes nothing.

    >>> environment = {"PATH": "/usr/bin", "FFMPEG_PATH": "/opt/ffmpeg/bin/ffmpeg"}
    >>> put_programs_on_path(environment)
    >>> environment["PATH"]
    '/opt/ffmpeg/bin:/usr/bin'
    """
    for program, variable in PROGRAM_VARIABLES.items():
        given = environment.get(variable, "").strip()
        if not given:
            continue
        place = Path(given).expanduser().absolute()
        folder = str(place.parent if place.stem == program and not place.is_dir() else place)
        folders = environment.get("PATH", os.defpath).split(os.pathsep)
        if folder not in folders:
            environment["PATH"] = os.pathsep.join([folder, *folders])
