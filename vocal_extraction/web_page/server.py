"""The web page's server: the gate, the page's own routes and Gradio's page, on one port of this machine."""

import contextlib
import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Collection, Iterator
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from vocal_extraction.checkpointing import load_checkpoint, shipped_checkpoints
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.reports.style import DARK, LIGHT, css_variables
from vocal_extraction.settings import CHECKPOINT_FOLDER, EVALUATION_FOLDER, LARGEST_PORT
from vocal_extraction.web_page.gate import Gate
from vocal_extraction.web_page.jobs import Workshop
from vocal_extraction.web_page.layout import Service, build_page, theme
from vocal_extraction.web_page.limits import USUAL_LIMITS, Limits
from vocal_extraction.web_page.routes import add_routes
from vocal_extraction.web_page.visitors import Visitors, visitors_folder

USUAL_PORT = 7860

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CLEAN_EVERY_S = 30.0
_GOODBYE_S = 2
"""How long open connections are waited for at the end."""
_HEAD = (
    f"<style>:root {{ {css_variables(LIGHT)} }} .dark {{ {css_variables(DARK)} }}</style>"
    '<link rel="stylesheet" href="/page/page.css">'
    '<script src="/page/page.js" defer></script><script src="/page/players.js" defer></script>'
)


class ServingError(VocalExtractionError):
    """The page cannot be served; the text says why."""


def serve_page(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    limits: Limits = USUAL_LIMITS,
    reports_folder: str | Path = EVALUATION_FOLDER,
    open_browser: bool | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    host
        The address to listen on; the default is heard by this machine only.
    port
        None takes 7860, or any free port where that is taken.
    model
        A checkpoint that is offered before those that ship.
    device
        Where the networks run, as in `device.choose_device`.
    limits
        Bounds for visitors.
    reports_folder
        Where evaluations write their reports.
    open_browser
        Whether a browser is started; None does so at a screen.

    Raises
    ------
    ServingError
        If the address cannot be had, or there is no model.
    CheckpointError
        If `networks` cannot be used.
    """
    models = _models(model)
    with contextlib.closing(_listen(host, port)) as listener, visitors_folder() as root:
        visitors = Visitors(root, limits)
        with Workshop(visitors, limits, device) as workshop, _cleaning(visitors, limits):
            service = Service(models, workshop, visitors, limits, Path(reports_folder))
            application = _application(service, hosts=_LOOPBACK if host in _LOOPBACK else ())
            _greet(host, listener.getsockname()[1], open_browser)
            _run(application, listener)


def _models(model: str | Path | None) -> dict[str, Path]:
    """Return the checkpoints to choose from, the default first."""
    trained_here = CHECKPOINT_FOLDER / "best.model.pth"
    shipped = shipped_checkpoints()
    models = {load_checkpoint(model).path.name: Path(model)} if model is not None else {}
    models |= {name: shipped[name] for name in ("studio", "classic") if name in shipped} | shipped
    models |= {str(trained_here): trained_here} if trained_here.is_file() else {}
    if not models:
        raise ServingError("There is no model to work with. Train one, or name a checkpoint: serve --model PATH.")
    return models


def _listen(host: str, port: int | None) -> socket.socket:
    """Listen on `port`; without one on the usual port, or where that is taken on any."""
    if port is not None and not 0 <= port <= LARGEST_PORT:
        raise ServingError(f"There is no port {port}. Try another --port, 1 to {LARGEST_PORT}.")
    try:
        family = socket.getaddrinfo(host, port or USUAL_PORT, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no name of the net has such a part
        raise ServingError(f"There is no address {host!r} ({error}). Try --host 127.0.0.1.") from error
    try:
        return socket.create_server((host, port or USUAL_PORT), family=family)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return socket.create_server((host, 0), family=family)
        reason = error.strerror or error
        raise ServingError(
            f"Cannot listen on {host}, port {port or USUAL_PORT}: {reason}. Try another --port."
        ) from error


def _application(service: Service, *, hosts: Collection[str]) -> ASGIApp:
    """Put the parts together."""
    # Gradio reads these where it needs them: its cache is below the visitors' folder, and it tells nobody anything.
    os.environ["GRADIO_TEMP_DIR"] = str(service.visitors.root)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    app = FastAPI(openapi_url=None)
    add_routes(app, visitors=service.visitors, limits=service.limits, reports_folder=service.reports_folder)
    app = gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        theme=theme(),
        head=_HEAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=service.limits.upload_bytes,
        show_error=False,
    )
    return Gate(app, visitors=service.visitors, limits=service.limits, hosts=hosts)


def _greet(host: str, port: int, open_browser: bool | None) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"The page is at {address}\nCtrl-C stops it.", flush=True)
    if host not in _LOOPBACK:
        print(f"Anyone who can reach {host} can use it.", file=sys.stderr)
    if open_browser is None:
        open_browser = sys.stdout.isatty() and _has_screen()
    if open_browser:
        webbrowser.open(address)


def _has_screen() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


@contextlib.contextmanager
def _cleaning(visitors: Visitors, limits: Limits) -> Iterator[None]:
    """Remove what is over its time, in the background."""
    over = threading.Event()

    def clean() -> None:
        while not over.wait(min(_CLEAN_EVERY_S, limits.lifetime_s / 4)):
            visitors.remove_expired()

    thread = threading.Thread(target=clean, name="cleaning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _run(application: ASGIApp, listener: socket.socket) -> None:
    config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=_GOODBYE_S, ws="none")
    uvicorn.Server(config).run(sockets=[listener])
