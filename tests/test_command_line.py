"""The parser against the functions that it feeds, and the menu as a person or a pipe meets it."""

import inspect
from pathlib import Path

import pytest

from command_line import commands, menu
from command_line.parser import build_parser, parse
from settings import PRESETS, ExtractionSettings, VocalExtractionError

# ------------------------------------------------------------------------------------------------ parser


def test_every_command_of_the_parser_is_a_function():
    (subparsers,) = [action for action in build_parser()._actions if action.dest == "command"]
    assert set(subparsers.choices) == set(commands.COMMANDS)


@pytest.mark.parametrize(
    "line, options",
    [
        ("train", {}),
        (
            "train --mixtures 20 --epochs 2 --seed 0 --resume --device cpu --workers 0",
            {
                "maximum_number_of_mixtures": 20,
                "n_epochs": 2,
                "seed": 0,
                "resume": True,
                "device": "cpu",
                "n_workers": 0,
            },
        ),
        ("train --preset studio", {"preset": PRESETS["studio"]}),
        (
            "train --musdb-path m --dataset d --json",
            {"musdb_path": Path("m"), "dataset_folder": Path("d"), "as_json": True},
        ),
        ("evaluate --model a.pth --model b.pth", {"models": [Path("a.pth"), Path("b.pth")]}),
        ("evaluate --preset classic --limit 3 --oracles", {"preset_name": "classic", "limit": 3, "oracles": True}),
        (
            "evaluate --estimates e --metrics scale bsseval_v4",
            {"estimates_folder": Path("e"), "metrics": ["scale", "bsseval_v4"]},
        ),
        (
            "extract a.mp3 - -o out --format flac --jobs 2 --overwrite",
            {
                "songs": ["a.mp3", "-"],
                "output_folder": "out",
                "n_jobs": 2,
                "settings": ExtractionSettings(format="flac", overwrite=True),
            },
        ),
        ("extract --preset studio -- -a.wav", {"songs": ["-a.wav"], "preset_name": "studio"}),
        ("extract --list-models --json", {"list_models": True, "as_json": True}),
        ("prepare --no-download --jobs 2", {"download": False, "n_workers": 2}),
        ("doctor --json", {"as_json": True}),
        ("demo", {}),
        ("serve --port 8000 --no-browser", {"port": 8000, "open_browser": False}),
    ],
)
def test_only_what_was_typed_is_handed_on(line, options):
    command, *_ = line.split()
    assert parse(line.split()) == (command, options)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sing",
        "train --epochs 0",
        "train --epochs many",
        "train --epochs 1e3",
        "train --seed -1",
        "train --preset gigantic",
        "train --epo 3",
        "train surplus",
        "evaluate --model a --preset classic",
        "evaluate --model a --estimates e",
        "evaluate --estimates e --mask binary",
        "evaluate --metrics loudness",
        "extract",
        "extract song.wav --format mp7",
        "doctor --loud",
    ],
)
def test_nonsense_is_a_usage_error(line, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(line.split())
    assert exit_.value.code == 2
    assert "usage: main.py" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in commands.COMMANDS)


def room_functions(command):
    """The functions of the rooms that take a command's options."""
    import evaluation
    import extraction
    import musdb_preparation
    import training

    return {
        "prepare": [musdb_preparation.prepare_musdb],
        "train": [training.train_model],
        "evaluate": [evaluation.evaluate_model, evaluation.compare_models],
        "extract": [extraction.extract_vocals],
    }[command]


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "extract"])
def test_every_option_is_an_argument_of_the_function_behind_it(command):
    (subparsers,) = [action for action in build_parser()._actions if action.dest == "command"]
    typed = {action.dest for action in subparsers.choices[command]._actions} - {"help"}
    here = set(inspect.signature(commands.COMMANDS[command]).parameters) - {"dataset_folder"}
    for function in room_functions(command):
        assert typed - here <= set(inspect.signature(function).parameters), function.__name__


# -------------------------------------------------------------------------------------- preparing the songs


@pytest.fixture
def prepared(monkeypatch):
    """Calls of `prepare_musdb`, which does nothing here."""
    import musdb_preparation

    calls = []
    monkeypatch.setattr(musdb_preparation, "prepare_musdb", lambda *arguments: calls.append(arguments))
    return calls


def test_the_default_folder_is_always_prepared(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands._prepare_if_needed(None, Path("dataset"))
    assert prepared == [(None, Path("dataset"))]


def test_songs_of_ones_own_are_taken_as_they_are(prepared, demo_dataset):
    commands._prepare_if_needed(None, demo_dataset)
    assert prepared == []


def test_songs_of_ones_own_are_joined_when_asked(prepared, demo_dataset):
    commands._prepare_if_needed(Path("musdb"), demo_dataset)
    assert prepared == [(Path("musdb"), demo_dataset)]


def test_an_interrupted_preparation_is_continued(prepared, tmp_path):
    (tmp_path / "sources.json").write_text("{}")
    commands._prepare_if_needed(None, tmp_path)
    assert prepared == [(None, tmp_path)]


# ------------------------------------------------------------------------------------------------- menu


@pytest.fixture
def chosen(monkeypatch):
    """What the menu's choices were called with; none of them does anything."""
    calls = []
    for name in ("train", "evaluate", "extract", "serve", "doctor"):
        monkeypatch.setattr(commands, name, lambda name=name, **options: calls.append((name, options)))
    return calls


@pytest.fixture
def answer(monkeypatch):
    """A function that runs the menu on the given answers and then the end of the input."""

    def run(*answers):
        waiting = list(answers)

        def next_answer(question):
            print(question, end="")
            if not waiting:
                raise EOFError
            if isinstance(waiting[0], BaseException):
                raise waiting.pop(0)
            return waiting.pop(0)

        monkeypatch.setattr("builtins.input", next_answer)
        return menu.run_menu()

    return run


@pytest.mark.parametrize(
    "key, call",
    [
        ("1", ("train", {})),
        ("2", ("evaluate", {})),
        ("3", ("evaluate", {"models": [menu.PRETRAINED_MODEL]})),
        ("w", ("serve", {})),
        ("D", ("doctor", {})),
        ("  d ", ("doctor", {})),
    ],
)
def test_a_choice_calls_its_command(answer, chosen, key, call):
    assert answer(key) == 0
    assert chosen == [call]


def test_numbers_are_those_of_the_specification(answer, capsys):
    assert answer("4") == 0
    text = capsys.readouterr().out
    for line in (
        "1. Train MaskInference model",
        "2. Evaluate model with test set",
        "3. Evaluate with pretrained model",
        "4. Exit",
    ):
        assert line in text


@pytest.mark.parametrize("wrong", ["", "0", "5", "-1", "1 2", "exit", "é", "1\0", "\udcff", "9" * 5_000])
def test_wrong_input_is_answered_and_asked_again(answer, chosen, capsys, wrong):
    assert answer(wrong, "d") == 0
    assert chosen == [("doctor", {})]
    assert "is not a choice" in capsys.readouterr().out


def test_a_failing_choice_says_why_and_leads_back(answer, chosen, capsys, monkeypatch):
    def fail(**options):
        raise VocalExtractionError("There are no songs. Put some there.")

    monkeypatch.setattr(commands, "train", fail)
    assert answer("1", "d", "4") == 0
    assert chosen == [("doctor", {})]
    assert "There are no songs. Put some there." in capsys.readouterr().err


def test_ctrl_c_in_a_choice_leads_back_to_the_menu(answer, chosen, monkeypatch):
    def interrupt(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "train", interrupt)
    assert answer("1", "d") == 0
    assert chosen == [("doctor", {})]


def test_ctrl_c_at_the_prompt_leaves(answer):
    with pytest.raises(KeyboardInterrupt):
        answer(KeyboardInterrupt())


def test_a_fault_of_the_program_is_not_hidden(answer, monkeypatch):
    def break_down(**options):
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "train", break_down)
    with pytest.raises(ZeroDivisionError):
        answer("1")


@pytest.mark.parametrize("spelling", ["{}", "'{}'", '"{}"'])
def test_song_is_asked_for_until_it_exists(answer, chosen, capsys, tmp_path, spelling):
    song = tmp_path / "-a song's \u266a.wav"
    song.touch()
    if spelling == "'{}'":
        song = song.rename(tmp_path / "a song.wav")
    assert answer("e", str(tmp_path / "nothing.wav"), "'unclosed", spelling.format(song), "4") == 0
    assert chosen == [("extract", {"songs": [song]})]
    assert "There is no" in capsys.readouterr().out


def test_a_song_with_escaped_blanks_is_found(answer, chosen, tmp_path):
    (tmp_path / "two words.wav").touch()
    answer("e", f"{tmp_path}/two\\ words.wav")
    assert chosen == [("extract", {"songs": [tmp_path / "two words.wav"]})]


@pytest.mark.parametrize("answers", [("e", ""), ("e",)])
def test_no_song_leads_back_to_the_menu(answer, chosen, answers):
    assert answer(*answers) == 0
    assert chosen == []
