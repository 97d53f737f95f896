"""How many functions stand between the command line and the LSTM."""

import pytest

from benchmarks import frames


@pytest.mark.parametrize("what, most", [("training", 10), ("extraction", 12)])
def test_few_functions_stand_between_main_and_the_lstm(what, most, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frames.write_inputs(tmp_path)
    found = frames.frames_to_lstm(frames.COMMANDS[what])
    assert found[0] == "__main__.py main"
    assert len(found) <= most, "\n".join(found)
