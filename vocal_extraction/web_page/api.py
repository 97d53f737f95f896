"""The JSON API, documented at ``/api`` as OpenAPI: jobs, events, files, models, reports, and the page."""

import asyncio
import contextlib
import inspect
import json
import secrets
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from vocal_extraction.audio_files.ffmpeg import STANDSTILL_S
from vocal_extraction.checkpointing import licence_of
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.extraction import plan_of
from vocal_extraction.model_library.known import VOCALS_DB
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.reports.style import COLOURS
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page.jobs import DONE, Job, JobQueue, Options
from vocal_extraction.web_page.listening import mix
from vocal_extraction.web_page.uploads import RefusedError

_SITE = Path(__file__).with_name("site")
_EVENT_EVERY_S = 0.25
# Any program may have written into the folder of a report: it may draw and play, but send no requests.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data:; font-src data:; frame-ancestors 'self'"
)
_DATA = {"report.html": "summary.json", "comparison.html": "comparison.json"}  # a report, and the file of its numbers
_SETTINGS: dict[str, dict[str, Any]] = {
    "format": {"type": "string", "enum": [*FORMATS]},
    "bitrate_kbps": {"type": "integer", "description": "Of mp3, ogg and m4a."},
    "mask": {"type": "string", "enum": ["soft", "binary"]},
    "phase": {"type": "string", "enum": ["mixture", "griffin-lim"]},
    "from_s": {"type": "number", "description": "Where separation begins; before, the song is left as it is."},
    "to_s": {"type": "number", "description": "Where separation ends."},
    "keep_partial": {"type": "boolean", "description": "Whether a damaged song is taken as far as it decodes."},
}
_QUERY = _SETTINGS | {
    "name": {"type": "string", "description": "The song's file name."},
    "model": {"type": "string", "description": "A name that /api/models gives; without it the first."},
    "stems": {"type": "string", "description": "Names with commas between, or 'all'; without it vocals and the rest."},
    "without": {"type": "string", "description": "Sources to take out of the song, instead of stems."},
}
_SENTENCES = {  # for Starlette's
    "Not Found": "There is nothing here, or its time is over.",
    "Method Not Allowed": "This address does not take such requests; /api lists those that are taken.",
}
_READERS: dict[str, Callable[[str], Any]] = {"integer": int, "number": float, "boolean": "true".__eq__, "string": str}


class Api:
    """The endpoints. `queue` holds the jobs, `report_folders` what evaluations wrote."""

    def __init__(self, queue: JobQueue, report_folders: Sequence[Path]) -> None:
        self._queue, self._report_folders = queue, report_folders
        self._routes = [
            Route("/api", self.document),
            Route("/api/models", self.models),
            Route("/api/jobs", self.list_jobs),
            Route("/api/jobs", self.submit, methods=["POST"]),
            Route("/api/jobs/{id}", self.job),
            Route("/api/jobs/{id}", self.delete, methods=["DELETE"]),
            Route("/api/jobs/{id}/events", self.events),
            Route("/api/jobs/{id}/preview", self.preview, methods=["POST"]),
            Route("/api/jobs/{id}/stems/{name}", self.stem),
            Route("/api/jobs/{id}/all.zip", self.archive),
            Route("/api/jobs/{id}/mix.wav", self.mix),
            Route("/api/jobs/{id}/{folder}/{file}", self.listening),
            Route("/api/reports", self.list_reports),
            Route("/reports/{path:path}", self.report),
        ]

    def application(self) -> Starlette:
        """Return the application: the API, and the page's files."""
        colours = Route("/colours.css", lambda request: Response(COLOURS, media_type="text/css"))
        routes = [*self._routes, colours, Mount("/", StaticFiles(directory=_SITE, html=True))]
        return Starlette(routes=routes, exception_handlers={HTTPException: _as_json, VocalExtractionError: _as_json})

    def document(self, request: Request) -> Response:
        """Return this document."""
        paths: dict[str, dict[str, Any]] = {}
        for route in self._routes:
            parameters = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in route.param_convertors
            ]
            operation: dict[str, Any] = {
                "summary": (inspect.getdoc(route.endpoint) or "").splitlines()[0],
                "parameters": parameters,
                "responses": {"200": {"description": "Done."}},
            }
            if route.endpoint == self.submit:
                parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in _QUERY.items()]
                operation["requestBody"] = {"content": {"application/octet-stream": {}}, "required": True}
            method = min(route.methods or ()).lower()  # of GET and HEAD the first
            paths.setdefault(route.path_format, {})[method] = operation
        about = {"title": "Vocal extraction", "version": "1", "description": 'Errors are JSON: {"error": SENTENCE}.'}
        return JSONResponse({"openapi": "3.1.0", "info": about, "paths": paths})

    def models(self, request: Request) -> Response:
        """List the models, the default first: sources, licence, seconds for a second of a song (null: not known)."""
        found = []
        for name, path in self._queue.models.items():
            with contextlib.suppress(VocalExtractionError):  # damaged: it is not offered
                about = self._queue.metadata(name)
                facts = {
                    "sources": about.sources,
                    "licence": licence_of(path, about.licence),
                    "is_imported": bool(about.imported),
                    "vocals_db": VOCALS_DB.get(name),
                    "real_time_factor": self._queue.real_time_factors.get(name),
                }
                found.append({"name": name, **facts})
        return JSONResponse(found)

    def list_jobs(self, request: Request) -> Response:
        """List the session's jobs, the oldest first."""
        return JSONResponse([self._queue.state(job) for job in self._queue.jobs(request.state.session)])

    async def submit(self, request: Request) -> Response:
        """Put a song, the request's body, into the queue."""
        options = await run_in_threadpool(self._options, request)
        length, limit = request.headers.get("content-length", ""), self._queue.limits.upload_bytes
        if not length.isdecimal():
            raise HTTPException(411, "Say how long the file is (Content-Length).")
        if int(length) > limit:
            raise HTTPException(413, f"The file is too large: at most {limit / 2**20:g} MB are taken.")
        song = self._queue.new_song(request.state.session, request.query_params.get("name", "song"), int(length))
        try:
            with open(song, "wb") as file:
                stream = request.stream()
                while block := await asyncio.wait_for(anext(stream, b""), STANDSTILL_S):
                    file.write(block)
                    if file.tell() > int(length):  # a body in chunks may have a length that is not its own
                        raise OSError("it is longer than its Content-Length.")
        except (ClientDisconnect, OSError) as error:
            shutil.rmtree(song.parent, ignore_errors=True)
            reason = str(error) or "the connection was lost, or stood still."
            raise HTTPException(400, f"The upload was not stored whole: {reason}") from error
        return JSONResponse(self._queue.state(self._queue.submit(request.state.session, song, options)), 201)

    def _options(self, request: Request) -> Options:
        asked = {name: value for name, value in request.query_params.items() if value}
        model = asked.get("model", next(iter(self._queue.models)))
        if model not in self._queue.models:
            raise HTTPException(400, f"No model {model!r}. Those that are here: {', '.join(self._queue.models)}.")
        given = {name: _read(name, asked[name], schema["type"]) for name, schema in _SETTINGS.items() if name in asked}
        settings = ExtractionSettings(**given)
        stems, without = (tuple(asked[name].split(",")) if name in asked else None for name in ("stems", "without"))
        if FORMATS[settings.format].holds_all and without is None:
            stems = stems or ("all",)  # as `plan_of` has it, for the preview too, which is in another format
        plan = plan_of(self._queue.metadata(model).sources, stems, without, settings.format)
        return Options(model, settings, stems, without, plan.names)

    def job(self, request: Request) -> Response:
        """Return a job's state."""
        return JSONResponse(self._queue.state(self._found(request)))

    def delete(self, request: Request) -> Response:
        """Cancel a job, or remove what came of it."""
        self._queue.remove(self._found(request))
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """Stream a job's state as server-sent events, named by the state, until the job is over."""
        job = self._found(request)

        async def stream() -> AsyncIterator[str]:
            sent, is_over = None, False
            while not is_over:
                is_over = job.is_over
                if (state := self._queue.state(job)) != sent:
                    yield f"event: {state['state']}\ndata: {json.dumps(state)}\n\n"
                    sent = state
                await asyncio.sleep(0 if is_over else _EVENT_EVERY_S)

        return StreamingResponse(stream(), media_type="text/event-stream")

    def preview(self, request: Request) -> Response:
        """Separate half a minute from the query's ``from``, in seconds, while the whole song is worked on."""
        job = self._found(request)
        start_s = _read("from", request.query_params.get("from", "0"))
        if not 0 <= start_s < (job.duration_s or 0.0):
            raise HTTPException(400, f"The song has no second {start_s:g}, or has not been read yet.")
        if not job.is_over:
            self._queue.request_preview(job, start_s)
        return JSONResponse(self._queue.state(job), 202)

    def stem(self, request: Request) -> Response:
        """Return a stem's file."""
        job = self._found(request, done=True)
        path = job.files.get(request.path_params["name"], job.folder)
        return _file(path, f"{job.song.stem} - {path.name}")

    def archive(self, request: Request) -> Response:
        """Return all stems as a ZIP file, with what was found out about the song."""
        job = self._found(request, done=True)
        path = job.folder / f"{secrets.token_hex(8)}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in job.files.values():
                archive.write(file, f"{job.song.stem}/{file.name}")
            facts = {"duration_s": job.duration_s, "tempo_bpm": job.tempo_bpm, "key": job.key, "notes": job.notes}
            archive.writestr(f"{job.song.stem}/song.json", json.dumps(facts, ensure_ascii=False))
        return _file(path, f"{job.song.stem}.zip", is_temporary=True)

    def mix(self, request: Request) -> Response:
        """Return the sum of all stems, each times the gain that the query gives by its name (1 without)."""
        job = self._found(request, done=True)
        gains = {name: _read(name, request.query_params.get(name, "1")) for name in job.stems}
        if not all(0 <= gain <= 4 for gain in gains.values()):
            raise HTTPException(400, "Gains go from 0 to 4.")
        path = job.folder / f"{secrets.token_hex(8)}.wav"
        mix(job.stems, gains, path)
        return _file(path, f"{job.song.stem} - mix.wav", is_temporary=True)

    def listening(self, request: Request) -> Response:
        """Return samples (.pcm) or a spectrogram (.png) of a stem of the job's track or preview."""
        job = self._found(request)
        folder, file = request.path_params["folder"], request.path_params["file"]
        for track in (job.track, *job.previews):
            if track is not None and track.folder.name == folder and file[:-4] in track.stems:
                return _file(track.folder / file)
        raise HTTPException(404)

    def list_reports(self, request: Request) -> Response:
        """List the reports of evaluations, the newest first, with models, date, machine and commit."""
        found = reports_in(self._report_folders)
        return JSONResponse([{"path": name, **describe(path)} for name, path in found.items()])

    def report(self, request: Request) -> Response:
        """Return a report."""
        response = _file(reports_in(self._report_folders).get(request.path_params["path"], _SITE))
        response.headers["Content-Security-Policy"] = _REPORT_POLICY
        return response

    def _found(self, request: Request, *, done: bool = False) -> Job:
        job = self._queue.find(request.state.session, request.path_params["id"])
        if job is None or (done and job.state != DONE):
            raise HTTPException(404)
        return job


def _file(path: Path, download_as: str | None = None, *, is_temporary: bool = False) -> Response:
    if not path.is_file():  # a folder is given for what there is not
        raise HTTPException(404)
    then = BackgroundTask(path.unlink, missing_ok=True) if is_temporary else None
    return FileResponse(path, filename=download_as, background=then)


def _read(name: str, text: str, kind: str = "number") -> Any:
    try:
        return _READERS[kind](text)
    except ValueError as error:
        raise HTTPException(400, f"{name} is of type {kind}, as in ?{name}=1. Got {text!r}.") from error


def _as_json(request: Request, error: Exception) -> Response:
    """Return an error's response: its sentence as JSON."""
    if isinstance(error, HTTPException):
        sentence = _SENTENCES.get(error.detail, error.detail)
        return JSONResponse({"error": sentence}, error.status_code)
    return JSONResponse({"error": str(error)}, 503 if isinstance(error, RefusedError) else 400)


def reports_in(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the reports below `folders` by their paths, the newest first; links that lead out are left out."""
    found = [
        path
        for folder in folders
        for name in _DATA
        for path in folder.rglob(name)
        if path.is_file() and path.resolve().is_relative_to(folder.resolve())
    ]
    return {path.as_posix().lstrip("/"): path for path in sorted(found, key=lambda path: -path.stat().st_mtime)}


def describe(path: Path) -> dict[str, Any]:
    """Return the models of a report, by preset where they have one, with date, machine and commit, as far as known."""
    try:
        content = json.loads((path.parent / _DATA[path.name]).read_text(encoding="utf-8"))
        models: Mapping[str, Any] = content.get("models") or {path.parent.name: content}
        made = [(label, model["made"]) for label, model in models.items()]
        names = [fact.get("preset") or label for label, fact in made]
        return {"models": names} | {key: made[0][1].get(key) for key in ("date", "machine", "commit")}
    except (OSError, ValueError, KeyError, AttributeError, IndexError):
        return {"models": [path.parent.name], "date": None, "machine": None, "commit": None}
