"""What ``make bench`` runs."""

import importlib

import pytest

from benchmarks.__main__ import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_measures_rows(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").rows)
