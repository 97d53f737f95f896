"""The edge to people: what they type into the menu and behind ``python main.py``, and how they name their files."""

import contextlib
import inspect
import io
import itertools
import sys
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stress import inputs
from stress.inputs import Target, refusing
from vocal_extraction import settings


@contextlib.contextmanager
def _commands_that_do_nothing() -> Iterator[None]:
    """Let every command only check that its function would take the options."""
    from vocal_extraction.command_line import commands

    def stand_in(command: Callable[..., int]) -> Callable[..., int]:
        takes = inspect.signature(command)

        def nothing(**options: Any) -> int:
            takes.bind(**options)
            _assert_in_bounds(options)
            return 0

        return nothing

    stand_ins = {name: stand_in(command) for name, command in commands.COMMANDS.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(unittest.mock.patch.dict(commands.COMMANDS, stand_ins))
        for name, command in stand_ins.items():
            stack.enter_context(unittest.mock.patch.object(commands, name, command))
        for stream in ("stdout", "stderr"):
            silent = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
            stack.enter_context(unittest.mock.patch.object(sys, stream, silent))
        yield


def _assert_in_bounds(options: dict[str, Any]) -> None:
    """What a command is given, torch, NumPy and the system must be able to take."""
    settings.TrainingSettings(
        n_epochs=options.get("n_epochs", 1), n_mixtures=options.get("maximum_number_of_mixtures", 1)
    )
    assert 0 <= options.get("seed", 0) < 2**64
    assert 1 <= options.get("port", 1) < 2**16
    assert all(options.get(name, 1) <= settings.MOST_WORKERS for name in ("n_workers", "n_jobs"))


def _menu_inputs() -> st.SearchStrategy[bytes]:
    answers = st.one_of(
        st.sampled_from(
            ("1", "2", "3", "e", "E", "d", "w", "e\nsong.wav", "e\n~", "e\n'", "e\n.", "e\n'a b'", "e\n" + "x" * 300)
        ),
        inputs.texts,
        inputs.texts.map(lambda text: f"e\n{text}"),
    )
    lines = st.lists(answers, max_size=6).map(lambda each: "\n".join(each).encode(errors="surrogatepass"))
    return st.one_of(lines, st.binary(max_size=60))


def _take_menu(data: bytes, folder: Path) -> None:
    import main

    answers = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    with _commands_that_do_nothing(), unittest.mock.patch.object(sys, "stdin", answers):
        assert main.main([]) == 0


def _command_lines() -> st.SearchStrategy[list[str]]:
    """A command with options of its own, mostly, and values that may fit them."""
    from vocal_extraction.command_line.parser import build_parser

    (subparsers,) = (action for action in build_parser()._actions if action.dest == "command")
    parsers: Any = subparsers.choices
    typed = st.one_of(st.integers().map(str), inputs.texts.filter(lambda text: "\0" not in text))
    values = st.one_of(st.sampled_from(_VALUES), st.sampled_from(_VALUES), typed)

    def line_of(command: str) -> st.SearchStrategy[list[str]]:
        flags = sorted(flag for action in parsers[command]._actions for flag in action.option_strings)
        words = st.one_of(
            st.tuples(st.sampled_from(flags), values), st.tuples(st.sampled_from(flags)), st.tuples(values)
        )
        return st.lists(words, max_size=3).map(lambda each: [command, *itertools.chain(*each)])

    return st.one_of(st.sampled_from(sorted(parsers)).flatmap(line_of), st.lists(values, max_size=4))


_VALUES = (
    *(
        "1",
        "0",
        "-1",
        "1e9",
        "1e300",
        "1e308",
        "1e400",
        "nan",
        "inf",
        "9" * 5_000,
        "1025",
        "65536",
        "70000",
        "1000001",
        "10000000000000",
        str(2**63),
        str(2**64),
        "1_0",
        "\u0663",
        "soft",
        "wav16",
        "mp3",
    ),
    *("specified", "classic", "{song}{stem}.{ext}", "{song:9999999999}{stem}{ext}", "{song!x}{stem}{ext}", "{"),
)


def _take_command_line(arguments: list[str], folder: Path) -> None:
    import main

    with _commands_that_do_nothing():
        try:
            status = main.main(arguments)
        except SystemExit as end:
            assert end.code in (0, 2), end.code
        else:
            assert status in (0, 1)


@st.composite
def _named_songs(draw: st.DrawFn) -> tuple[list[str], str, str]:
    """Names of songs, a template and a format; no name leads out of the folder that the target is in."""
    names = draw(st.lists(inputs.texts.map(lambda text: text.replace("/", "|")), max_size=4))
    parts = draw(
        st.lists(
            st.one_of(
                st.sampled_from(("{folder}/", "{song}", "{stem}", ".{ext}", "{song:d}", "{stem!x}")), inputs.texts
            )
        )
    )
    template = draw(st.one_of(st.just("{folder}/{song}/{stem}.{ext}"), st.just("".join(parts))))
    return names, template, draw(st.sampled_from(("wav16", "flac", "mp3")))


def _take_names(drawn: tuple[list[str], str, str], folder: Path) -> None:
    from vocal_extraction.extraction.naming import choose_paths, find_songs, path_key
    from vocal_extraction.settings import ExtractionSettings

    names, template, kind = drawn
    with refusing():
        settings = ExtractionSettings(output_template=template, format=kind)
        songs = find_songs(names, output_folder=Path("out"))
        inputs_by_path = {path_key(song) for song in songs}
        owners: dict[str, str] = {}
        for song in songs:
            paths = choose_paths(
                song,
                ("vocals", "accompaniment"),
                output_folder=Path("out"),
                settings=settings,
                owners=owners,
                inputs=inputs_by_path,
            )
            keys = {path_key(path) for path in paths.values()}
            assert not owners.keys() & keys
            owners |= dict.fromkeys(keys, str(song))


def _take_device(name: str, folder: Path) -> None:
    from vocal_extraction.device import choose_device

    with refusing():
        assert choose_device(name).type in ("cpu", "cuda", "mps")


TYPED_TARGETS = (
    Target("menu", _menu_inputs, _take_menu, 14_000, n_guided=6_000),
    Target("command lines", _command_lines, _take_command_line, 12_000, n_guided=6_000),
    Target("names and templates", _named_songs, _take_names, 14_000, n_guided=6_000),
    Target("device names", lambda: inputs.texts, _take_device, 3_000),
)
