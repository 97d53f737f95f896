"""Trials of what the program withstands: ``make stress``.

The tests run a short version of each; docs/hardening.md has what the long ones found.
"""
