"""Middleware in front of the API: hosts, origins, the token, a session's cookie, and the headers of every response.

A session is a signed random cookie that scripts cannot read, so no list of sessions is kept. Where the server has a
token, programs send it with every request (``Authorization: Bearer TOKEN``).
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection

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
_STRANGER = "A token is needed: open the address that the server printed, or send 'Authorization: Bearer TOKEN'."


class SessionMiddleware:
    """`hosts` are the names under which the server may be asked for, empty for any; `token` None lets anyone in."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = (), token: str | None = None) -> None:
        self._app, self._hosts, self._token = app, hosts, token
        self._key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it; connections of other kinds, as WebSockets, are closed."""
        if scope["type"] != "http":
            return
        request, app, headers = Request(scope, receive), self._app, dict(_HEADERS)
        host, origin = (request.headers.get(name, "") for name in ("host", "origin"))
        session = self._session(request)
        if self._hosts and re.sub(r":\d+$", "", host) not in self._hosts:
            app = JSONResponse({"error": "This server is not known by that name."}, 403)
        elif origin and origin.partition("://")[2] != host:
            app = JSONResponse({"error": "Another site may not use this server."}, 403)
        elif session is None and not (self._token is None or self._is_token(request.query_params.get("token", ""))):
            app = JSONResponse({"error": _STRANGER}, 401)
        elif session is None:
            session = secrets.token_urlsafe(32)
            headers["Set-Cookie"] = f"{COOKIE}={session}.{self._signature(session)}; Path=/; HttpOnly; SameSite=Lax"
        request.state.session = session

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in headers.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        await app(scope, receive, send_with_headers)

    def _session(self, request: Request) -> str | None:
        """Return the session that a request belongs to, if it says so."""
        if self._is_token(request.headers.get("authorization", "").removeprefix("Bearer ")):
            return "bearer"
        value, _, signature = request.cookies.get(COOKIE, "").partition(".")
        return value if hmac.compare_digest(signature.encode(), self._signature(value).encode()) else None

    def _signature(self, value: str) -> str:
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()

    def _is_token(self, text: str) -> bool:
        return self._token is not None and hmac.compare_digest(text.encode(), self._token.encode())
