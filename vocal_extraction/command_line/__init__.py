"""What a person sees: the parser of ``python main.py ...``, the menu, the doctor and the demo.

Nothing here computes: it asks, calls and prints. Every module stays quick to import; what needs torch or nussl is
imported inside the function that uses it.
"""
