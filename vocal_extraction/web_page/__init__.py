"""A local web page and JSON API over `extraction`, and the page as a static site."""
