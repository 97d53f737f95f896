"""A local web page and JSON API over `extraction`.

`server` puts `sessions` (middleware) and `api` (endpoints) on one port; `jobs` is the queue, `uploads` validates what
comes in, `listening` makes stems playable; `static_site` writes the page for hosts of files.
"""
