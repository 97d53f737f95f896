"""A local web page over `extraction`, for those who would rather listen than type.

The only package that needs ``requirements-web.txt``; nothing but the command ``serve`` imports it.

================  ===================================================================
file              what it holds
================  ===================================================================
``limits.py``     how much the page does for its visitors
``visitors.py``   each visitor's folder, his alone, and its end
``gate.py``       what passes before Gradio sees it
``routes.py``     uploads, results, reports and scripts
``intake.py``     whether a song may come in
``listening.py``  a result made ready to be heard and seen
``markup.py``     what is shown of the work, as HTML
``jobs.py``       one song's way through the page
``layout.py``     the page in Gradio's components
``server.py``     all of it on one port
``page.css``      colours and places, light and dark, wide and narrow
``page.js``       stages of the work are spoken
``players.js``    three players under one clock, and the karaoke fader
================  ===================================================================
"""

from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.server import ServingError, serve_page

__all__ = ["Limits", "ServingError", "serve_page"]
