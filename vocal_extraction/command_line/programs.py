"""Where sox and ffmpeg are found: on the PATH, or where SOX_PATH and FFMPEG_PATH point.

ffmpeg is called by name, here and by stempeg; so is sox, by pysox, with which scaper renders and nussl applies effects.
The one place that they all look at is the PATH. Each variable may name a folder or the program itself.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

PROGRAM_VARIABLES = {"sox": "SOX_PATH", "ffmpeg": "FFMPEG_PATH"}
"""The environment variables that name the programs' places."""


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
