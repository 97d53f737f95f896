"""The parser of ``python main.py ...``, the menu, the doctor and the demo: they ask, call and print.

Every module stays quick to import; what needs torch or nussl is imported inside the function that uses it.
"""
