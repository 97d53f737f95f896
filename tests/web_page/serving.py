"""A page's server in a thread of the test's process, and a client of its API."""

import contextlib
import http.client
import json
import threading
import time

import uvicorn

from vocal_extraction.web_page.api import Api
from vocal_extraction.web_page.jobs import JobQueue
from vocal_extraction.web_page.sessions import SessionMiddleware

PATIENCE_S = 180
"""For anything: the machine may be busy. Nothing waits longer than it must."""


class Response:
    """A status, headers and a body."""

    def __init__(self, response):
        self.status, self.headers, self.content = response.status, response.headers, response.read()

    @property
    def text(self):
        return self.content.decode()

    def json(self):
        return json.loads(self.content)


class Client:
    """A client with a session of its own, by cookie, unless it shall have none."""

    def __init__(self, port, *, cookie=None, with_session=True):
        self.port, self.cookie = port, cookie
        if cookie is None and with_session:
            self.cookie = self.get("/").headers["set-cookie"].partition(";")[0]

    def send(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            cookie = {"Cookie": self.cookie} if self.cookie else {}
            connection.request(method, path, body, {**cookie, **(headers or {})})
            return Response(connection.getresponse())

    def get(self, path, **headers):
        return self.send("GET", path, headers=headers)

    def submit(self, content, query="name=song.wav"):
        return self.send("POST", f"/api/jobs?{query}", content)

    def wait(self, job):
        """Return a job's last state."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (state := self.get(f"/api/jobs/{job['id']}").json())["state"] in ("queued", "working"):
            assert time.monotonic() < deadline_s, state
            time.sleep(0.02)
        return state


@contextlib.contextmanager
def served(root, models, limits, *, reports=None, token=None):
    """Yield the queue and the port of a server."""
    with JobQueue(root, limits, models, "cpu") as queue:
        application = SessionMiddleware(
            Api(queue, [reports or root]).application(), hosts=("127.0.0.1", "localhost"), token=token
        )
        config = uvicorn.Config(application, port=0, log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield queue, server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.force_exit = server.should_exit = True
            thread.join()
