"""What people look at: text tables, charts and self-contained pages, made from plain numbers, arrays and dictionaries.

Nothing here computes a score or runs a network. ``page.py`` fills the templates ``evaluation.html`` and
``comparison.html`` beside it, ``tables.py`` makes what the console shows, ``training_plots.py`` a training's picture.
"""
