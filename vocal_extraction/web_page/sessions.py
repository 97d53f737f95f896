"""Middleware in front of the API: hosts, origins, the token, a session's cookie, and the headers of every response.

A session is a signed random cookie that scripts cannot read: the signature is the server's, so no list of sessions is
kept. Where the server has a token, a session is given only to those who bring it, and programs send it with every
request (``Authorization: Bearer TOKEN``).
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "session"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STRANGER = (
    "This server wants its token: open the address that it printed at its start, or send 'Authorization: Bearer TOKEN'."
)


class SessionMiddleware:
    """`hosts` are the names under which the server may be asked for, empty for any; `token` None lets anyone in."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = (), token: str | None = None) -> None:
        self._app, self._hosts, self._token = app, frozenset(hosts), token
        self._key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here; what is no HTTP is not answered, and the connection closed."""
        if scope["type"] == "http":
            request = Request(scope, receive)
            session, new_cookie = self._session(request)
            refusal = self._refusal(request, session)
            request.state.session = session
            await (refusal or self._app)(scope, receive, _with_headers(send, None if refusal else new_cookie))

    def _session(self, request: Request) -> tuple[str | None, str | None]:
        """Return the session of a request and its cookie where it is new; None for a stranger."""
        value, _, signature = request.cookies.get(COOKIE, "").partition(".")
        if self._is_token(request.headers.get("authorization", "").removeprefix("Bearer ")):
            return "bearer", None
        if hmac.compare_digest(signature.encode(), self._signature(value).encode()):
            return value, None
        if self._token is None or self._is_token(request.query_params.get("token", "")):
            value = secrets.token_urlsafe(32)
            return value, f"{value}.{self._signature(value)}"
        return None, None

    def _signature(self, value: str) -> str:
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()

    def _is_token(self, text: str) -> bool:
        return self._token is not None and hmac.compare_digest(text.encode(), self._token.encode())

    def _refusal(self, request: Request, session: str | None) -> JSONResponse | None:
        """Return the answer to a request that may not pass; None if it may."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self._hosts and _name_of(host) not in self._hosts:
            return JSONResponse({"error": "This server is not known by that name."}, 403)
        if origin is not None and origin.partition("://")[2] != host:
            return JSONResponse({"error": "Another site may not use this server."}, 403)
        return JSONResponse({"error": _STRANGER}, 401) if session is None else None


def _name_of(host: str) -> str:
    """Return a host's name without its port.

    >>> _name_of("127.0.0.1:7860"), _name_of("[::1]:7860"), _name_of("[")
    ('127.0.0.1', '::1', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _with_headers(send: Send, new_cookie: str | None) -> Send:
    """Return `send` that adds the headers of every response, and the cookie of a new session."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if new_cookie is not None:
                headers.append("Set-Cookie", f"{COOKIE}={new_cookie}; Path=/; HttpOnly; SameSite=Lax")
        await send(message)

    return send_with_headers
