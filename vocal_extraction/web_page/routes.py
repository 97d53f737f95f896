"""What the page serves beside Gradio: its scripts, a visitor's uploads and results, and the reports of evaluations."""

import mimetypes
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import gradio.route_utils
import gradio.routes
from fastapi import FastAPI
from python_multipart.exceptions import ParseError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from vocal_extraction.web_page.gate import UPLOAD_PATH
from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.visitors import Visitors

REPORT_NAMES = ("report.html", "comparison.html")

_ASSETS = ("page.css", "page.js", "players.js")
_ASSETS_FOLDER = Path(__file__).resolve().parent
# A report is a page by itself, from a folder that anything may have written into: it may draw and play, not ask.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data:; font-src data:; frame-ancestors 'self'"
)


def add_routes(app: FastAPI, *, visitors: Visitors, limits: Limits, reports_folder: Path) -> None:
    """Add the routes to `app`; one that Gradio has too must be added before Gradio is mounted."""

    @app.post(UPLOAD_PATH)
    async def upload(request: Request, upload_id: str | None = None) -> Response:
        return await _take_upload(request, visitors.uploads(request.state.visitor), upload_id, limits)

    @app.get("/page/{name}")
    def asset(name: str) -> Response:
        return FileResponse(_ASSETS_FOLDER / name) if name in _ASSETS else _missing()

    @app.get("/results/{result}/{name}")
    def result(request: Request, result: str, name: str, download: str | None = None) -> Response:
        path = visitors.result_file(request.state.visitor, result, name)
        if path is None:
            return _missing()
        # What browsers cannot draw or play by its name they shall keep; nothing of a visitor's runs as a page.
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=kind, filename=download, headers={"Cache-Control": "private, no-store"})

    @app.get("/reports/{name:path}")
    def report(name: str) -> Response:
        path = dict(reports_in(reports_folder)).get(name)
        return _missing() if path is None else FileResponse(path, headers={"Content-Security-Policy": _REPORT_POLICY})


async def _take_upload(request: Request, folder: Path, upload_id: str | None, limits: Limits) -> Response:
    """Store an upload as Gradio does, but in the visitor's own folder."""
    try:
        paths, _, _ = await gradio.route_utils.upload_fn(
            request,
            folder,
            limits.upload_bytes,
            upload_id,
            upload_progress=gradio.routes.file_upload_statuses if upload_id else None,
        )
    except MultiPartException as error:
        too_large = "maximum allowed size" in error.message
        return PlainTextResponse(error.message, 413 if too_large else 400)
    except (ParseError, HTTPException, TypeError, KeyError, OSError) as error:
        return PlainTextResponse(f"The upload could not be read: {error}", 400)
    for path in paths:
        os.utime(Path(path).parent)  # an hour from now, though the same song may have been here before
    return JSONResponse(paths)


def reports_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the reports below `folder`, newest first, as name and path; links that lead out of it are left out."""
    inside = folder.resolve()
    found = [path for name in REPORT_NAMES for path in inside.rglob(name)]
    found = [path for path in found if path.is_file() and path.resolve().is_relative_to(inside)]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        yield path.relative_to(inside).as_posix(), path


def report_address(name: str) -> str:
    """Return the address of a report.

    >>> report_address("my model/report.html")
    '/reports/my%20model/report.html'
    """
    return "/reports/" + urllib.parse.quote(name)


def _missing() -> Response:
    return JSONResponse({"detail": "There is nothing here, or its time is over."}, 404)
