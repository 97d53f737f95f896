"""The parser against the functions that it feeds, and the menu as a person or a pipe meets it."""

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from vocal_extraction.checkpointing import shipped_checkpoint
from vocal_extraction.command_line import commands, menu
from vocal_extraction.command_line.parser import build_parser, parse
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.settings import PRESETS, ExtractionSettings

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
        ("train --preset studio --cache 1.5", {"preset": PRESETS["studio"], "cache_bytes": 1_500_000_000}),
        (
            "train --musdb-path m --dataset d --json",
            {"musdb_path": Path("m"), "dataset_folder": Path("d"), "as_json": True},
        ),
        ("evaluate --model a.pth --model b.pth", {"models": [Path("a.pth"), Path("b.pth")]}),
        ("evaluate --preset classic --limit 3 --oracles", {"preset_names": ["classic"], "limit": 3, "oracles": True}),
        ("evaluate --preset classic --preset studio", {"preset_names": ["classic", "studio"]}),
        ("evaluate --model a.pth --preset studio", {"models": [Path("a.pth")], "preset_names": ["studio"]}),
        ("evaluate --tracks a b --normalization song", {"tracks": ["a", "b"], "normalization": "song"}),
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
        ("ensemble a.pth b.pth -o c.pth", {"paths": [Path("a.pth"), Path("b.pth")], "output_path": Path("c.pth")}),
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
        "evaluate --preset classic --estimates e",
        "evaluate --model a --estimates e",
        "evaluate --estimates e --mask binary",
        "evaluate --metrics loudness",
        "extract",
        "extract song.wav --format mp7",
        "ensemble -o c.pth",
        "ensemble a.pth b.pth",
        "doctor --loud",
    ],
)
def test_nonsense_is_a_usage_error(line, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(line.split())
    assert exit_.value.code == 2
    assert "usage: vocal-extraction" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in commands.COMMANDS)


def room_functions(command):
    """The functions of the rooms that take a command's options."""
    from vocal_extraction import evaluation, extraction, musdb_preparation, training
    from vocal_extraction.checkpointing import joining

    return {
        "prepare": [musdb_preparation.prepare_musdb],
        "train": [training.train_model],
        "evaluate": [evaluation.evaluate_model, evaluation.EvaluationOptions],
        "ensemble": [joining.join_checkpoints],
        "extract": [extraction.extract_songs],
    }[command]


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "ensemble", "extract"])
def test_every_option_is_an_argument_of_the_function_behind_it(command):
    (subparsers,) = [action for action in build_parser()._actions if action.dest == "command"]
    typed = {action.dest for action in subparsers.choices[command]._actions} - {"help", "traceback"}
    here = set(inspect.signature(commands.COMMANDS[command]).parameters) - {"dataset_folder"}
    if command == "extract":
        here |= {field.name for field in dataclasses.fields(ExtractionSettings)}
    for function in room_functions(command):
        here |= inspect.signature(function).parameters.keys()
    assert typed - here == set()


def test_every_option_of_serve_is_an_argument_of_the_page():
    pytest.importorskip(
        "starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt"
    )
    from vocal_extraction.web_page import Limits, serve_page

    (subparsers,) = [action for action in build_parser()._actions if action.dest == "command"]
    typed = {action.dest for action in subparsers.choices["serve"]._actions} - {"help", "traceback"}
    limits = {field.name for field in dataclasses.fields(Limits)}
    assert typed - limits - set(inspect.signature(serve_page).parameters) == set()


# -------------------------------------------------------------------------------------- preparing the songs


@pytest.fixture
def prepared(monkeypatch):
    """Calls of `prepare_musdb`, which does nothing here."""
    from vocal_extraction import musdb_preparation

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


@pytest.mark.parametrize("file", ["song/vocals.wav", "test/song/vocals.wav", "song/voice.wav"])
def test_songs_that_no_preparation_made_are_scored_without_adding_to_them(prepared, monkeypatch, tmp_path, file):
    from vocal_extraction import evaluation

    monkeypatch.setattr(evaluation, "evaluate_model", lambda *model, **options: SimpleNamespace(summary={}))
    monkeypatch.setattr(commands, "TRAINED_MODEL", shipped_checkpoint("classic"))
    commands.evaluate(dataset_folder=tmp_path)
    assert prepared == [(None, tmp_path)], "an empty folder is prepared"
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    commands.evaluate(dataset_folder=tmp_path)
    assert len(prepared) == 1
    commands.evaluate(dataset_folder=tmp_path, musdb_path=Path("musdb"))
    assert prepared[1:] == [(Path("musdb"), tmp_path)]


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({}, "No checkpoint at checkpoints.best.model.pth"),
        ({"models": [Path("typo.pth")]}, "No checkpoint at typo.pth"),
        ({"models": [shipped_checkpoint("classic"), Path("typo.pth")]}, "No checkpoint at typo.pth"),
        ({"estimates_folder": Path("typo")}, "No folder typo with estimates"),
    ],
)
def test_what_is_scored_is_looked_for_before_songs_are_prepared(prepared, monkeypatch, tmp_path, options, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VocalExtractionError, match=complaint):
        commands.evaluate(**options)
    assert prepared == []


def test_an_interrupted_preparation_is_continued(prepared, tmp_path):
    (tmp_path / "sources.json").write_text("{}")
    commands._prepare_if_needed(None, tmp_path)
    assert prepared == [(None, tmp_path)]
    assert not commands._holds_other_things(tmp_path)


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


# ------------------------------------------------------------------------------------------------ results


@pytest.fixture
def outcomes(monkeypatch):
    """What `extract_songs` returns, without doing anything: one song done, one failed."""
    from vocal_extraction import extraction

    made = [
        extraction.Outcome("a.mp3", "done", 1.0, duration_s=10.0, vocals=Path("v.wav"), accompaniment=Path("r.wav")),
        extraction.Outcome("b.mp3", "failed", reason="It is empty."),
    ]
    monkeypatch.setattr(extraction, "extract_songs", lambda songs, **options: made)
    return made


def test_one_bad_song_is_status_1(outcomes, capsys):
    assert commands.extract(songs=["a.mp3", "b.mp3"]) == 1
    assert capsys.readouterr().out == f"{outcomes[0]}\n"
    outcomes.pop()
    assert commands.extract(songs=["a.mp3"]) == 0


def test_outcomes_are_one_json_list(outcomes, capsys):
    assert commands.extract(songs=["a.mp3", "b.mp3"], as_json=True) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["vocals"], first["outcome"]) == ("v.wav", "done")
    assert second["reason"] == "It is empty."


def test_stdout_is_left_to_the_audio(outcomes, capsys):
    commands.extract(songs=["-"], output_folder="-")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a.mp3: done" in printed.err


def test_only_the_first_process_prepares_and_prints(monkeypatch, capsys, prepared):
    from vocal_extraction import training

    monkeypatch.setattr(training, "train_model", lambda **options: Path("best.model.pth"))
    monkeypatch.setenv("RANK", "1")
    assert commands.train() == 0
    assert (prepared, capsys.readouterr().out) == ([], "")
    monkeypatch.setenv("RANK", "0")
    assert commands.train(as_json=True) == 0
    assert len(prepared) == 1
    assert json.loads(capsys.readouterr().out) == {"checkpoint": "best.model.pth"}


def test_a_stopped_training_says_how_to_go_on(monkeypatch, capsys, prepared, tmp_path):
    from vocal_extraction import training

    def interrupt(**options):
        (tmp_path / "latest.model.pth").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commands.train(checkpoint_folder=tmp_path)
    assert "--resume continues it" in capsys.readouterr().err


def test_evaluation_goes_to_the_function_that_is_meant(monkeypatch, capsys, prepared):
    from vocal_extraction import evaluation

    calls = []

    class Result:
        summary: ClassVar = {"n_songs": 1}

    def stand_in(name, result):
        def record(*arguments, **options):
            calls.append((name, arguments, options["show"]))
            return result

        return record

    monkeypatch.setattr(evaluation, "evaluate_model", stand_in("model", Result))
    monkeypatch.setattr(evaluation, "evaluate_estimates", stand_in("estimates", Result))
    monkeypatch.setattr(evaluation, "compare_models", stand_in("compare", {"n_models": 2}))
    monkeypatch.setattr(commands, "_look_at_what_is_scored", lambda models, estimates_folder: None)
    one, two = Path("a.pth"), Path("b.pth")
    for options in ({}, {"models": [one]}, {"models": [one, two]}, {"estimates_folder": Path("e")}):
        commands.evaluate(as_json=True, **options)
    assert calls == [
        ("model", (), False),
        ("model", (one,), False),
        ("compare", ([one, two],), False),
        ("estimates", (Path("e"),), False),
    ]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()][2] == {"n_models": 2}


def test_a_page_that_lacks_its_packages_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("vocal_extraction.web_page")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(commands.MissingPartError, match="make serve"):
        commands.run_command("serve")
