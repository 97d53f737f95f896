"""The parser against the functions that it feeds, and what the commands print."""

import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path
from typing import ClassVar

import pytest

import main
from vocal_extraction import tracks
from vocal_extraction.checkpointing import named_checkpoint
from vocal_extraction.command_line import commands
from vocal_extraction.command_line.parser import build_parser, parse
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.presets import PRESETS
from vocal_extraction.settings import ExtractionSettings

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
        (
            "extract --list - --shard 1/8 -o s3://b/out --engine ray --address auto --price-per-core-hour 0.02",
            {
                "list_path": "-",
                "shard": "1/8",
                "output_folder": "s3://b/out",
                "engine": "ray",
                "cluster": "auto",
                "price_per_core_hour": 0.02,
            },
        ),
        ("extract --merge-manifests -o out", {"merge_manifests": True, "output_folder": "out"}),
        ("evaluate --preset classic --shard auto/4", {"preset_names": ["classic"], "shard": "auto/4"}),
        ("extract --preset studio -- -a.wav", {"songs": ["-a.wav"], "preset_name": "studio"}),
        ("extract --list-models --json", {"list_models": True, "as_json": True}),
        ("ensemble a.pth b.pth -o c.pth", {"paths": [Path("a.pth"), Path("b.pth")], "output_path": Path("c.pth")}),
        (
            "export classic -o a.onnx --streaming",
            {"models": ["classic"], "output_path": Path("a.onnx"), "streaming": True},
        ),
        ("export --site www classic a.pth", {"models": ["classic", "a.pth"], "site_folder": Path("www")}),
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
        "train --preset studio --mixtures 1000",
        "train --epo 3",
        "train surplus",
        "evaluate --preset classic --estimates e",
        "evaluate --model a --estimates e",
        "evaluate --estimates e --mask binary",
        "evaluate --metrics loudness",
        "evaluate --preset classic --preset studio --shard 0/2",
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


@pytest.mark.parametrize(
    "line, meant",
    [
        ("--vesion", "--version"),
        ("extrct song.mp3", "extract"),
        ("extract song.mp3 --formt flac", "--format"),
        ("extract song.mp3 --format flak", "flac"),
        ("extract song.mp3 --format tem.mp4", "stem.mp4"),
        ("train --epoch 3", "--epochs"),
    ],
)
def test_what_was_probably_meant_is_said(line, meant, capsys):
    with pytest.raises(SystemExit):
        parse(line.split())
    text = capsys.readouterr().err
    assert f"Did you mean {meant}?" in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    "line, words", [("extract song.mp3 --device gpu", "cuda"), ("extract song.mp3 --output-template {song}", "{stem}")]
)
def test_wrong_values_are_answered_in_a_sentence(line, words, capsys, monkeypatch, make_song):
    monkeypatch.chdir(make_song("song.mp3").parent)
    assert main.main(line.split()) == 1
    (text,) = capsys.readouterr().err.splitlines()
    assert words in text
    assert len(text) < 250


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
        "extract": [extraction.extract_songs, extraction.extract_catalogue],
    }[command]


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "ensemble", "extract"])
def test_every_option_is_an_argument_of_the_function_behind_it(command):
    (subparsers,) = [action for action in build_parser()._actions if action.dest == "command"]
    typed = {action.dest for action in subparsers.choices[command]._actions} - {"help", "traceback"}
    here = set(inspect.signature(commands.COMMANDS[command]).parameters) - {"dataset_folder"} | {"models_folder"}
    if command == "extract":
        here |= {field.name for field in dataclasses.fields(ExtractionSettings)}
    for function in room_functions(command):
        here |= inspect.signature(function).parameters.keys()
    assert typed - here == set()


def test_every_option_of_serve_is_an_argument_of_the_page():
    pytest.importorskip(
        "starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt"
    )
    from vocal_extraction.web_page.server import serve_page
    from vocal_extraction.web_page.uploads import Limits

    (subparsers,) = [action for action in build_parser()._actions if action.dest == "command"]
    typed = {action.dest for action in subparsers.choices["serve"]._actions} - {"help", "traceback"}
    limits = {field.name for field in dataclasses.fields(Limits)} | {"models_folder"}
    assert typed - limits - set(inspect.signature(serve_page).parameters) == set()


# -------------------------------------------------------------------------------------- preparing the songs


@pytest.fixture
def prepared(monkeypatch):
    """Calls of `prepare_musdb`, which does nothing here."""
    calls = []
    monkeypatch.setattr(tracks, "prepare_musdb", lambda *arguments, **_: calls.append(arguments))
    return calls


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({}, "No checkpoint at checkpoints.best.model.pth"),
        ({"models": [Path("typo.pth")]}, "No checkpoint at typo.pth"),
        ({"models": [named_checkpoint("classic"), Path("typo.pth")]}, "No checkpoint at typo.pth"),
        ({"estimates_folder": Path("typo")}, "No folder typo with estimates"),
    ],
)
def test_what_is_scored_is_looked_for_before_songs_are_prepared(prepared, monkeypatch, tmp_path, options, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VocalExtractionError, match=complaint):
        commands.evaluate(**options)
    assert prepared == []


# ------------------------------------------------------------------------------------------------ results


@pytest.fixture
def outcomes(monkeypatch):
    """What `extract_songs` returns, without doing anything: one song done, one failed."""
    from vocal_extraction import extraction

    made = [
        extraction.Outcome("a.mp3", "done", 1.0, duration_s=10.0, stems={"vocals": Path("v.wav")}),
        extraction.Outcome("b.mp3", "failed", reason="It is empty."),
    ]

    def extract_songs(songs, *, results=None, **options):
        if results is not None:
            print(made[0], file=results)
        return made

    monkeypatch.setattr(extraction, "extract_songs", extract_songs)
    return made


def test_one_bad_song_is_status_1(outcomes, capsys):
    assert commands.extract(songs=["a.mp3", "b.mp3"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{outcomes[0]}\n"
    assert printed.err == "1 of 2 done, 1 failed: b.mp3, It is empty.\n"
    outcomes.pop()
    assert commands.extract(songs=["a.mp3"]) == 0
    assert capsys.readouterr().err == ""


def test_outcomes_are_one_json_list(outcomes, capsys):
    assert commands.extract(songs=["a.mp3", "b.mp3"], as_json=True) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["stems"], first["outcome"]) == ({"vocals": "v.wav"}, "done")
    assert second["reason"] == "It is empty."


def test_stdout_is_left_to_the_audio(outcomes, capsys):
    commands.extract(songs=["-"], output_folder="-")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a.mp3: done" in printed.err


def test_only_the_first_process_prints(monkeypatch, capsys):
    from vocal_extraction import training

    monkeypatch.setattr(training, "train_model", lambda **options: Path("best.model.pth"))
    monkeypatch.setenv("RANK", "1")
    assert commands.train() == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert commands.train(as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoint": "best.model.pth"}


@pytest.mark.parametrize(
    "typed, epochs, words",
    [
        (["train", "--checkpoints", "a b"], 1, "This goes on: vocal-extraction train --checkpoints 'a b' --resume\n"),
        (["train", "--resume"], 0, "is in {}. This goes on: vocal-extraction train --resume\n"),
        (["train"], 0, "No epoch has ended yet. Songs that are prepared stay. This goes on: vocal-extraction train\n"),
        ([], 1, "is in {}. This goes on: choice 1 of the menu\n"),
        ([], 0, "Songs that are prepared stay. This goes on: choice 1 of the menu\n"),
    ],
)
def test_a_stopped_training_says_what_is_kept_and_how_to_go_on(monkeypatch, capsys, tmp_path, typed, epochs, words):
    from vocal_extraction import training

    (tmp_path / "latest.model.pth").touch()
    os.utime(tmp_path / "latest.model.pth", (0, 0))  # of an earlier run

    def interrupt(**options):
        if epochs:
            (tmp_path / "latest.model.pth").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_model", interrupt)
    monkeypatch.setattr(sys, "argv", ["vocal-extraction", *typed])
    with pytest.raises(KeyboardInterrupt):
        commands.train(checkpoint_folder=tmp_path, **({"resume": True} if "--resume" in typed else {}))
    assert words.format(tmp_path) in capsys.readouterr().err


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


@pytest.mark.parametrize("command", ["prepare", "evaluate", "extract"])
def test_ctrl_c_says_what_stays_and_how_to_go_on(monkeypatch, capsys, command):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, command, interrupt)
    with pytest.raises(KeyboardInterrupt):
        commands.run_command(command)
    assert "stay. The same command or choice goes on with the rest." in capsys.readouterr().err
