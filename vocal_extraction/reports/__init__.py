"""What people look at: tables, charts and one HTML page, made from plain numbers, arrays and dictionaries.

Nothing here computes a score, runs a network or knows where a file of the project lies.

=====================  ==================================================================
file                   what it draws
=====================  ==================================================================
``style.py``           the colours and type of every chart and page, light and dark
``tables.py``          plain text tables for the console and the report card
``training_plots.py``  the course of a training: losses, learning rate, waiting for data
``charts.py``          box plots and bars as SVG
``pictures.py``        spectrograms as PNG
``players.py``         audio clips small enough to stand in a page
``page.py``            the self-contained report page of an evaluation
``comparison_page.py`` the same for two models
=====================  ==================================================================
"""
