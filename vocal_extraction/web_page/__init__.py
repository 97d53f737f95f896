"""A local web page and JSON API over `extraction`.

The only package that needs ``requirements-web.txt``; nothing but the command ``serve`` imports it.

=================  ====================================================================
file               what it holds
=================  ====================================================================
``limits.py``      how much the server does for a session
``uploads.py``     upload validation
``listening.py``   stems as the players need them: samples, spectrograms, waveform
``jobs.py``        jobs and their queue
``sessions.py``    middleware: hosts, origins, token, session cookie, response headers
``api.py``         the JSON API, and its OpenAPI document
``server.py``      all of it on one port
``index.html``     the page; ``page.css`` its style, ``page.js`` its behaviour
``engine.js``      the page's access to the separation: this server's API
``player.js``      a song's player: stems under one clock
=================  ====================================================================
"""

from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.server import ServingError, serve_page

__all__ = ["Limits", "ServingError", "serve_page"]
