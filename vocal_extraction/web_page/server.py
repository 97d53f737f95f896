"""The web page's server: middleware, API and page on one port of this machine."""

import contextlib
import errno
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from vocal_extraction.atomic_files import private_folder
from vocal_extraction.checkpointing import load_checkpoint, named_checkpoints
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.model_library.known import VOCALS_DB
from vocal_extraction.settings import DEMO_FOLDER, EVALUATION_FOLDER, TRAINED_MODEL
from vocal_extraction.web_page.api import Api
from vocal_extraction.web_page.jobs import JobQueue
from vocal_extraction.web_page.sessions import SessionMiddleware
from vocal_extraction.web_page.uploads import Limits

USUAL_PORT = 7860

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_GOODBYE_S = 2  # how long open connections are waited for at the end
_FOR_LIVE = ("live", "low-latency")  # models that others outdo where a song is a file


class ServingError(VocalExtractionError):
    """The page cannot be served; the text says why."""


def serve_page(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    limits: Limits | None = None,
    token: str | None = None,
    open_browser: bool | None = None,
) -> None:
    """Serve the page until SIGINT (Ctrl-C) or SIGTERM, then cancel all jobs and remove their files.

    Without a port it is 7860, or any free one where that is taken. `model` is a checkpoint that is offered before all
    others. `token` is what clients must bring; without one it is made up and printed where `host` is not this machine's
    own. A browser is started at a screen unless `open_browser` says otherwise.
    """
    models = _models(model)
    is_local = host in _LOOPBACK
    token = token or (None if is_local else secrets.token_urlsafe(16))
    with contextlib.ExitStack() as stack:
        # As `sys.exit` does, so that everything is tidied up; uvicorn raises the signal again when it has stopped.
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        stack.callback(signal.signal, signal.SIGTERM, before)
        listener = stack.enter_context(contextlib.closing(_listen(host, port)))
        root = stack.enter_context(jobs_folder())
        queue = stack.enter_context(JobQueue(root, limits or Limits(), models, device))
        # Not as a daemon: torch aborts when the interpreter ends beside a thread that computes.
        threading.Thread(target=queue.measure_models, name="measuring").start()
        api = Api(queue, [EVALUATION_FOLDER, DEMO_FOLDER]).application()
        application = SessionMiddleware(api, hosts=("127.0.0.1", "localhost", "[::1]") if is_local else (), token=token)
        _greet(host, listener.getsockname()[1], token, open_browser)
        config = uvicorn.Config(
            application, log_level="warning", timeout_graceful_shutdown=_GOODBYE_S, ws="none", lifespan="off"
        )
        uvicorn.Server(config).run(sockets=[listener])


def _models(model: str | Path | None) -> dict[str, Path]:
    """Return the checkpoints to choose from: the default first, then by what their vocals scored."""
    named = {name: path for name, path in named_checkpoints().items() if name not in _FOR_LIVE}
    order = sorted(named, key=lambda name: (name == "studio", VOCALS_DB.get(name, 0.0)), reverse=True)
    models = {load_checkpoint(model).path.name: Path(model)} if model is not None else {}
    models |= {name: named[name] for name in order}
    models |= {str(TRAINED_MODEL): TRAINED_MODEL} if TRAINED_MODEL.is_file() else {}
    if not models:
        raise ServingError("There is no model to work with. Train one, or name a checkpoint: serve --model PATH.")
    return models


def _listen(host: str, port: int | None) -> socket.socket:
    """Listen on `port`; without one on the usual port, or where that is taken on any."""
    try:
        family = socket.getaddrinfo(host, port or USUAL_PORT, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no name of the net has such a part
        raise ServingError(f"There is no address {host!r} ({error}). Try --host 127.0.0.1.") from error
    try:
        return socket.create_server((host, port or USUAL_PORT), family=family)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return socket.create_server((host, 0), family=family)
        where = f"{host}, port {port or USUAL_PORT}"
        raise ServingError(f"Cannot listen on {where}: {error.strerror or error}. Try another --port.") from error


def _greet(host: str, port: int, token: str | None, open_browser: bool | None) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}" + (f"/?token={token}" if token else "")
    print(f"The page is at {address}\nCtrl-C stops it.", flush=True)
    if host not in _LOOPBACK:
        print(f"Anyone who can reach {host} and has the token can use it.", file=sys.stderr)
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if open_browser or (open_browser is None and sys.stdout.isatty() and has_screen):
        webbrowser.open(address)


@contextlib.contextmanager
def jobs_folder() -> Iterator[Path]:
    """Yield a private folder for all jobs' files and what else is temporary; it is removed at the end."""
    with private_folder("vocal-extraction-page-") as root:
        usual, tempfile.tempdir = tempfile.tempdir, str(root)
        try:
            yield root
        finally:
            tempfile.tempdir = usual
