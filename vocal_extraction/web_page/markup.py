"""What the page shows of the work, as HTML: how far it is, what came of it, what went wrong.

Every text that a visitor could have chosen, such as the name of a song, is escaped.
"""

import dataclasses
import html
import urllib.parse

from vocal_extraction.web_page.listening import Listening

STEMS_SHOWN = (("Mixture", 0), ("Vocals", -100), ("Accompaniment", 100))
"""The players, and where the fader stands when each is heard by itself."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Where the work stands."""

    stage: str
    """What is being done."""
    done_s: float = 0.0
    """Seconds of the song that are done."""
    total_s: float | None = None
    """Seconds of the song, None where nobody knows."""
    elapsed_s: float = 0.0
    """Seconds of work on them so far."""

    @property
    def share(self) -> float | None:
        """What is done, 0 to 1; None where nobody knows."""
        return min(1.0, self.done_s / self.total_s) if self.total_s else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds of work to come, if it goes on as it went; None where nobody knows.

        >>> Step("Separating", done_s=30, total_s=120, elapsed_s=2).remaining_s
        6.0
        """
        if not self.total_s or self.done_s <= 0:
            return None
        return max(0.0, self.total_s - self.done_s) * self.elapsed_s / self.done_s


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a song."""

    address: str
    """Where its files are served."""
    song: str
    """The song's name."""
    stems: dict[str, tuple[str, int]]
    """File name and size in bytes by stem: vocals, accompaniment."""
    listening: Listening
    lifetime_s: float
    notes: tuple[str, ...] = ()
    """What the visitor should know about the files."""


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(75.4), clock(3600)
    ('1:15', '60:00')
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def progress(step: Step) -> str:
    """Return a progress bar, with the time that is left once it can be told."""
    share = step.share
    value = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    width = "" if share is None else f' style="width: {100 * share:.1f}%"'
    parts = [] if share is None else [f"{clock(step.done_s)} of {clock(step.total_s or 0)}"]
    if step.remaining_s is not None:
        parts.append(f"{_left(step.remaining_s)} left")
    if step.done_s > 0 and step.elapsed_s > 0:
        parts.append(f"{step.done_s / step.elapsed_s:.1f} times as fast as it plays")
    stage, kind = html.escape(step.stage), "bar unknown" if share is None else "bar"
    return (
        f'<work-stage class="work" data-stage="{stage}">'
        f'<p class="stage"><b>{stage}</b> <span class="detail">{", ".join(parts)}</span></p>'
        f'<div class="{kind}" role="progressbar" aria-label="{stage}"'
        f' aria-valuemin="0" aria-valuemax="100"{value}><div{width}></div></div></work-stage>'
    )


def _left(seconds: float) -> str:
    """Return a time to come, no more exact than it can be known.

    >>> _left(0.4), _left(42.3), _left(95)
    ('less than a second', '42 s', '1:35 min')
    """
    if seconds < 1:
        return "less than a second"
    return f"{seconds:.0f} s" if seconds < 60 else f"{clock(seconds)} min"


def failure(reason: str) -> str:
    """Return the box that says why there is no result."""
    return f'<div class="failure" role="alert"><b>That did not work.</b> {html.escape(reason)}</div>'


def note(text: str) -> str:
    """Return a quiet line, spoken once."""
    return f'<work-stage class="note" data-stage="{html.escape(text)}"><p>{html.escape(text)}</p></work-stage>'


def players(result: Result) -> str:
    """Return the players of a result, with the fader, the pictures and the downloads."""
    heard = result.listening
    rows = "".join(_player(result, name, fader) for name, fader in STEMS_SHOWN)
    notes = "".join(f"<p>{html.escape(text[:1].upper() + text[1:])}.</p>" for text in result.notes)
    song = html.escape(result.song)
    return (
        f'<song-players data-listen="{result.address}/listen.pcm" data-rate="{heard.sample_rate}"'
        f' data-frames="{heard.n_frames}" role="group" aria-label="Players for {song}">'
        f"<h2>{song}</h2>"
        '<div class="transport"><button type="button" class="play" aria-label="Play"></button>'
        f'<input type="range" class="seek" min="0" max="{heard.duration_s:.3f}" step="any" value="0"'
        ' aria-label="Position in the song"><span class="time"></span></div>'
        '<label class="fader"><span>Vocals</span><input type="range" min="-100" max="100" step="5" value="0"'
        ' aria-label="Karaoke fader, from vocals to accompaniment"><span>Accompaniment</span></label>'
        f'<p class="complaint" role="alert"></p>{rows}{notes}'
        f'<p class="detail">The files are yours alone and are removed after {_span(result.lifetime_s)}.</p>'
        "</song-players>"
    )


def _player(result: Result, name: str, fader: int) -> str:
    stem = name.lower()
    level = '<div class="level" aria-hidden="true"><i></i></div>' if stem in result.stems else ""
    return (
        f'<section class="player" aria-label="{name}" data-fader="{fader}" data-name="{stem}">'
        f'<div class="head"><button type="button" aria-label="Play {stem}"></button><h3>{name}</h3>{level}'
        f"{_download(result, stem)}</div>"
        f'<div class="picture"><img src="{result.address}/{stem}.png" alt="Spectrogram of the {stem}"'
        ' width="480" height="200"><i class="cursor"></i></div></section>'
    )


def _download(result: Result, stem: str) -> str:
    if stem not in result.stems:
        return ""
    file, n_bytes = result.stems[stem]
    ending = file.rpartition(".")[2]
    name = f"{result.song} - {stem}.{ending}"
    address = f"{result.address}/{file}?" + urllib.parse.urlencode({"download": name})
    return (
        f'<a class="download" href="{html.escape(address)}" download="{html.escape(name)}">'
        f'Download<span class="spoken"> {stem}</span> ({ending.upper()}, {n_bytes / 1e6:.1f} MB)</a>'
    )


def _span(seconds: float) -> str:
    """Return how long something is kept.

    >>> _span(3600), _span(900)
    ('an hour', '15 minutes')
    """
    return "an hour" if round(seconds) == 3_600 else f"{max(1, round(seconds / 60))} minutes"


def report_frame(address: str, name: str) -> str:
    """Return a frame with the report at `address`, shown as it is."""
    source = html.escape(address)
    return (
        f'<iframe src="{source}" title="Evaluation report {html.escape(name)}" sandbox="allow-scripts"></iframe>'
        f'<p><a href="{source}" target="_blank" rel="noopener">Open the report in a tab of its own</a></p>'
    )
