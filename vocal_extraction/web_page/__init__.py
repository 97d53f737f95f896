"""A local web page and JSON API over `extraction`.

The only package that needs ``requirements-web.txt``; nothing but the command ``serve`` imports it. `server` puts
`sessions` (middleware) and `api` (endpoints) on one port; `jobs` is the queue, `uploads` validates what comes in,
`listening` makes stems playable, `reports` lists evaluations. In the folder ``site``, ``page.js`` is the page's
behaviour, ``player.js`` a song's player, ``engine.js`` the way to what separates songs.
"""

from vocal_extraction.web_page.server import ServingError, serve_page
from vocal_extraction.web_page.uploads import Limits

__all__ = ["Limits", "ServingError", "serve_page"]
