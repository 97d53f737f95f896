"""The menu as a person at a terminal or a pipe meets it."""

from pathlib import Path

import pytest

from vocal_extraction.command_line import commands, menu
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.presets import PRESETS


@pytest.fixture
def chosen(monkeypatch):
    """What the menu's choices were called with; none of them does anything."""
    calls = []
    for name in ("train", "evaluate", "extract", "models", "serve", "doctor"):
        monkeypatch.setitem(commands.COMMANDS, name, lambda name=name, **options: calls.append((name, options)))
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
        ("m", ("models", {})),
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

    monkeypatch.setitem(commands.COMMANDS, "train", fail)
    assert answer("1", "d", "4") == 0
    assert chosen == [("doctor", {})]
    assert "There are no songs. Put some there." in capsys.readouterr().err


def test_ctrl_c_in_a_choice_leads_back_to_the_menu(answer, chosen, monkeypatch):
    def interrupt(**options):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "train", interrupt)
    assert answer("1", "d") == 0
    assert chosen == [("doctor", {})]


def test_ctrl_c_at_the_prompt_leaves(answer):
    with pytest.raises(KeyboardInterrupt):
        answer(KeyboardInterrupt())


def test_a_fault_of_the_program_is_not_hidden(answer, monkeypatch):
    def break_down(**options):
        raise ZeroDivisionError

    monkeypatch.setitem(commands.COMMANDS, "train", break_down)
    with pytest.raises(ZeroDivisionError):
        answer("1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, so that the path to it, which may have blanks, is not part of what is typed."""
    monkeypatch.chdir(tmp_path)
    return Path()


@pytest.mark.parametrize("spelling", ["{}", "'{}'", '"{}"'])
def test_song_is_asked_for_until_it_exists(answer, chosen, capsys, here, spelling):
    song = here / "-a song's \u266a.wav"
    song.touch()
    if spelling == "'{}'":
        song = song.rename(here / "a song.wav")
    assert answer("e", "nothing.wav", "'unclosed", spelling.format(song), "4") == 0
    assert chosen == [("extract", {"songs": [song]})]
    assert "There is no" in capsys.readouterr().out


def test_a_song_with_escaped_blanks_is_found(answer, chosen, here):
    (here / "two words.wav").touch()
    answer("e", "two\\ words.wav")
    assert chosen == [("extract", {"songs": [here / "two words.wav"]})]


@pytest.mark.parametrize("answers", [("e", ""), ("e",)])
def test_no_song_leads_back_to_the_menu(answer, chosen, answers):
    assert answer(*answers) == 0
    assert chosen == []


@pytest.mark.parametrize(
    "dropped",
    ["'{0}' '{1}'", "{0!s} {1!s}", '"{0}"  "{1}" ', "{2} {1}", "{3} {1}"],
    ids=["quoted", "bare", "double", "escaped", "address"],
)
def test_several_files_dropped_at_once_are_all_extracted(answer, chosen, here, dropped):
    one, two = here / ("a.wav" if "!s" in dropped else "a b.wav"), here / "c.wav"
    one.touch()
    two.touch()
    answer("e", dropped.format(one, two, str(one).replace(" ", "\\ "), one.absolute().as_uri()))
    assert [song.absolute() for song in chosen[0][1]["songs"]] == [one.absolute(), two.absolute()]


def test_nothing_is_extracted_if_one_of_several_files_is_not_there(answer, chosen, here, capsys):
    (here / "a.wav").touch()
    answer("e", "a.wav 'b c.wav'", "")
    assert chosen == []
    assert "There is no 'b c.wav'. Type" in capsys.readouterr().out


CLASSIC = PRESETS["classic"]


@pytest.fixture
def at_a_terminal(monkeypatch, tmp_path):
    monkeypatch.setattr(menu, "_is_terminal", lambda: True)
    monkeypatch.setattr(menu, "_edit_lines", lambda: None)
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize(
    "answers, options",
    [
        (("", "", "", "", ""), {}),
        (
            (".", "classic", "2", "y"),
            {"musdb_path": Path(), "preset": PRESETS["classic"], "n_epochs": 2},
        ),
        (("nowhere", "", "nothing", "", "0", "20", "many", "3", ""), {"n": 20, "n_epochs": 3}),
    ],
)
def test_training_from_a_terminal_asks_with_defaults(answer, chosen, capsys, answers, options):
    """Choice 1 started hours of work without a word about songs, size and time."""
    options = {"maximum_number_of_mixtures" if name == "n" else name: value for name, value in options.items()}
    answer("1", *answers)
    assert chosen == [("train", options)]
    text = capsys.readouterr().out
    words = ("[download]", "140 MB", "20 minutes", "[specified]", "[1000]", "[25]", "Ctrl-C")
    assert [word for word in words if word not in text and "classic" not in answers] == []


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize(
    "answers", [("",) * 4 + ("n",), ("",) * 4 + ("1",), ("", ""), (), ("", EOFError(), *("",) * 4)]
)
def test_training_does_not_start_without_a_yes(answer, chosen, answers):
    answer("1", *answers)
    assert chosen == []


@pytest.mark.usefixtures("at_a_terminal")
def test_a_stopped_training_is_gone_on_with(answer, chosen, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "history.jsonl").write_text("{}\n{}\n")
    answer("1", "", "", "classic", "", "", "", "1", "maybe", "no", "", "", "", "", "nope", "n")
    assert chosen == [("train", {"resume": True, "preset": CLASSIC})]
    text = capsys.readouterr().out
    assert "2 epochs lies in checkpoints" in text
    assert "'maybe' is neither yes nor no" in text
    assert "'nope' is neither yes nor no" in text


@pytest.mark.usefixtures("at_a_terminal")
def test_a_person_imports_a_model_and_takes_it(answer, chosen, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VOCAL_EXTRACTION_MODELS", str(tmp_path / "models"))
    (tmp_path / "song.wav").write_bytes(b"")
    answer("e", "song.wav", "m", "song.wav")
    assert "Model" not in capsys.readouterr().out.replace("Models:", "")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "theirs.model.pth").write_bytes(b"")
    answer("e", "song.wav", "their", "theirs", "e", "song.wav", "", "m", "")
    said = capsys.readouterr().out
    names = "classic, studio, ensemble, band-split, live, low-latency, theirs"
    assert f"Model, one of {names} [studio]: 'their' does not fit." in said
    songs = [Path("song.wav")]
    assert chosen == [
        ("extract", {"songs": songs}),
        ("models", {}),
        ("models", {"action": "import", "what": "song.wav"}),
        ("extract", {"songs": songs, "preset_name": "theirs"}),
        ("extract", {"songs": songs, "preset_name": None}),
        ("models", {}),
    ]


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize("accepts, n_calls", [("y", 3), ("n", 2), ("", 2), ("yours", 2)])
def test_a_person_is_asked_to_accept_a_licence(answer, monkeypatch, accepts, n_calls):
    from vocal_extraction.model_library import LicenceError

    calls = []

    def models(**options):
        calls.append(options)
        if options.get("action") == "fetch" and "accept_licence" not in options:
            raise LicenceError("read it first")

    monkeypatch.setitem(commands.COMMANDS, "models", models)
    answer("m", "umxhq", accepts)
    fetch = {"action": "fetch", "what": "umxhq"}
    assert calls == [{}, fetch, {**fetch, "accept_licence": True}][:n_calls]
