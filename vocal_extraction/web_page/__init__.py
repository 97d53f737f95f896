"""A local web page and JSON API over `extraction`.

All but `static_site`, which writes the page for hosts of files, needs ``requirements-web.txt``. `server` puts
`sessions` (middleware) and `api` (endpoints) on one port; `jobs` is the queue, `uploads` validates what comes in,
`listening` makes stems playable. In the folder ``site``, ``page.js`` is the page's
behaviour, ``player.js`` a song's player, ``engine.js`` the way to what separates songs.
"""
