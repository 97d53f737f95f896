"""Trials of what the program withstands, by numbers: ``make fuzz``, ``make kill-test``, ``make memory``.

The tests run a short version of each; docs/hardening.md has what the long ones found.
"""
