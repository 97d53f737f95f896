"""The gate in front of Gradio: who is asking, may he, and is it small enough.

Gradio serves any file of its cache to whoever knows the path, fetches URLs that a request names, and has routes that
this page does not use. So every request passes here first. It gets a visitor's token by cookie, reaches only the routes
that the page needs, names only files of its own visitor, and is refused when another site sent it. The answer tells the
browser to talk to this server alone: no font, script or statistic can go elsewhere, whatever a library tries.
"""

import json
import re
from collections.abc import Collection, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.visitors import Visitors, is_token, new_token

COOKIE = "visitor"

UPLOAD_PATH = "/gradio_api/upload"

_FILE_PREFIX = "/gradio_api/file="
_OPEN_PATHS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)/?"
    r"|/(assets|static|page|results|reports)/.+"
    r"|/gradio_api/(queue/(join|data)|heartbeat/\w+|upload|upload_progress|cancel|reset|run/\w+)/?"
)
_LARGEST_QUESTION_BYTES = 2**16
_MULTIPART_BYTES = 2**16
"""What a form adds to the file that it carries."""

_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page holds its configuration as a script, and its components make theirs from text.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "connect-src 'self' blob: data:",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "form-action 'self'",
        "base-uri 'self'",
        "object-src 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """ASGI middleware; `hosts` are the names under which the server may be asked for, empty for any."""

    def __init__(self, app: ASGIApp, *, visitors: Visitors, limits: Limits, hosts: Collection[str]) -> None:
        self._app = app
        self._visitors = visitors
        self._limits = limits
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks any other protocol; the server closes the connection
        request = Request(scope, receive)
        token = request.cookies.get(COOKIE, "")
        is_new = not is_token(token)
        if is_new:
            token = new_token()
        request.state.visitor = token
        send = _with_headers(send, token if is_new else None)
        answer = self._refusal(request, token)
        if answer is None and request.method == "POST" and request.url.path != UPLOAD_PATH:
            answer, receive = await self._examine_body(request, token)
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, request: Request, token: str) -> Response | None:
        """Return the answer to a request that may not pass; None if it may."""
        path, host = request.url.path, request.headers.get("host", "")
        if self._hosts and _name_of(host) not in self._hosts:
            return _refused(HTTPStatus.FORBIDDEN, "This server is not known by that name.")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return _refused(HTTPStatus.FORBIDDEN, "Another site may not use this server.")
        if path.startswith(_FILE_PREFIX):
            return None if self._visitors.owns(token, path.removeprefix(_FILE_PREFIX)) else _not_found()
        if not _OPEN_PATHS.fullmatch(path):
            return _not_found()
        return self._upload_refusal(request) if path == UPLOAD_PATH else None

    def _upload_refusal(self, request: Request) -> Response | None:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return _refused(HTTPStatus.LENGTH_REQUIRED, "Say how long the file is.")
        if int(length) > self._limits.upload_bytes + _MULTIPART_BYTES:
            largest = f"{self._limits.upload_bytes / 2**20:g} MB"
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The file is too large: at most {largest} are taken.")
        if not self._visitors.has_room_for(int(length)):
            return _refused(HTTPStatus.INSUFFICIENT_STORAGE, "The server's disk is full. Please try again in an hour.")
        return None

    async def _examine_body(self, request: Request, token: str) -> tuple[Response | None, Receive]:
        """Read the JSON of a request, see which files it names, and make it readable again."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_QUESTION_BYTES:
                return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large."), request.receive

        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await request.receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            named = list(_named_files(json.loads(body or b"null")))
        except (ValueError, RecursionError):
            return _refused(HTTPStatus.BAD_REQUEST, "The request is not JSON."), replay
        if not all(isinstance(path, str) and self._visitors.owns(token, path) for path in named):
            return _refused(HTTPStatus.FORBIDDEN, "That file is not yours, or its time is over."), replay
        return None, replay


def _name_of(host: str) -> str:
    """Return a host's name without its port.

    >>> _name_of("127.0.0.1:7860"), _name_of("[::1]:7860"), _name_of("[")
    ('127.0.0.1', '::1', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _named_files(content: Any) -> Iterator[Any]:
    """Yield what stands under ``path`` anywhere in `content`: the way in which Gradio's requests name files.

    >>> list(_named_files({"data": ["soft", {"path": "/a"}, [{"path": "/b"}]]}))
    ['/a', '/b']
    """
    if isinstance(content, dict):
        if content.get("path") is not None:
            yield content["path"]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _named_files(part)


def _with_headers(send: Send, new_token: str | None) -> Send:
    """Return `send` that adds the headers of every answer, and the cookie of a new visitor."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if new_token is not None:
                headers.append("Set-Cookie", f"{COOKIE}={new_token}; Path=/; HttpOnly; SameSite=Lax")
        await send(message)

    return send_with_headers


def _refused(status: HTTPStatus, reason: str) -> Response:
    # Gradio's scripts show what stands under "detail", or the text of a refused upload.
    if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.INSUFFICIENT_STORAGE):
        return PlainTextResponse(reason, status)
    return JSONResponse({"detail": reason}, status)


def _not_found() -> Response:
    return _refused(HTTPStatus.NOT_FOUND, "There is nothing here.")
