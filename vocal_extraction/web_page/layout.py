"""The page itself, in Gradio's components: what is on it and what happens when something is pressed."""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from vocal_extraction.errors import ExtractionCancelledError, VocalExtractionError
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.reports.style import DARK, FONT, LIGHT
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page import markup
from vocal_extraction.web_page.intake import RefusedError
from vocal_extraction.web_page.jobs import Order, Workshop
from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.markup import Step
from vocal_extraction.web_page.routes import report_address, reports_in
from vocal_extraction.web_page.visitors import Visitors

TITLE = "Vocal extraction"

_WHAT_IT_DOES = "Takes the vocals out of a song, and leaves what was around them."
_FORMAT_NAMES = {
    "wav16": "WAV, 16 bits",
    "wav24": "WAV, 24 bits",
    "float": "WAV, 32-bit floats",
    "flac": "FLAC",
    "mp3": "MP3",
    "ogg": "Ogg Vorbis",
    "m4a": "M4A (AAC)",
}
_MASK_NAMES = {"soft": "Soft: every sound is shared out", "binary": "Binary: every sound goes to one side"}
_OPTIONS = {"--keep-partial": "“Take a damaged song as far as it plays”", "--format": "the format"}
"""Options that messages name, as the page calls them."""
_DONE = "Done."
_STOPPED = "Stopped. Nothing was kept."
_UNEXPECTED = "This is a fault of the program, not of the song. The server's log says more; please report it."

_MOST_EVENTS = 64
"""That Gradio holds at a time; the line of songs is much shorter."""

Update = tuple[Any, ...]
"""New values for status, result and the two buttons."""


@dataclasses.dataclass(frozen=True)
class Service:
    """What the page works with."""

    models: dict[str, Path]
    """Checkpoints by the name that a visitor sees, the best first."""
    workshop: Workshop
    visitors: Visitors
    limits: Limits
    reports_folder: Path


def theme() -> gr.themes.Base:
    """Return the theme: the colours of the project's other pages, and the reader's own fonts."""
    fonts = [name.strip(" '") for name in FONT.split(",")]
    colours = {
        "body_background_fill": "ground",
        "body_text_color": "ink",
        "body_text_color_subdued": "muted",
        "block_background_fill": "panel",
        "block_border_color": "rule",
        "block_label_text_color": "ink",
        "block_label_background_fill": "panel",
        "block_title_text_color": "ink",
        "input_background_fill": "panel",
        "border_color_primary": "rule",
        "background_fill_primary": "panel",
        "background_fill_secondary": "ground",
        "button_primary_background_fill": "model",
        "button_primary_background_fill_hover": "model",
        "button_primary_text_color": "panel",
        "button_secondary_background_fill": "panel",
        "button_primary_border_color": "model",
        "button_primary_border_color_hover": "model",
        "button_secondary_border_color": "rule",
        "button_secondary_text_color": "ink",
        "input_border_color": "rule",
        "link_text_color": "model",
    }
    values = {name: getattr(LIGHT, colour) for name, colour in colours.items()}
    values |= {f"{name}_dark": getattr(DARK, colour) for name, colour in colours.items()}
    values |= {"color_accent": LIGHT.model, "input_border_width": "1px"}
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", font=fonts, font_mono=["ui-monospace", "monospace"]
    ).set(**values)


def build_page(service: Service) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        _html(f"<header><h1>{TITLE}</h1><p>{_WHAT_IT_DOES}</p></header>", "header")
        with gr.Tab("Extract"):
            _Extraction(service).build()
        with gr.Tab("Evaluation reports") as tab:
            _build_reports(service, tab)
    page.queue(max_size=_MOST_EVENTS, api_open=False)
    return page


def _html(value: str = "", elem_id: str | None = None) -> gr.HTML:
    """Return a place for HTML that keeps its own style and has no script of Gradio's."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, js_on_load=None)


class _Extraction:
    """The first tab."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def build(self) -> None:
        """Lay it out, inside of the tab."""
        self.song = gr.File(label="Song: any audio or video file", height=170, elem_id="song")
        self.recording = gr.Audio(
            sources=["microphone"], type="filepath", format=None, editable=False, buttons=[],
            label="Or record", elem_id="recording",
        )  # fmt: skip
        with gr.Group(), gr.Row():
            self._build_options()
        with gr.Row():
            self.go = gr.Button("Extract vocals", variant="primary", scale=2, min_width=160, elem_id="go")
            self.cancel = gr.Button("Cancel", interactive=False, min_width=100)
        self.status = _html(elem_id="status")
        self.result = _html(elem_id="result")
        self._connect()

    def _build_options(self) -> None:
        models = list(self._service.models)
        masks = [(name, mask) for mask, name in _MASK_NAMES.items()]
        formats = [(_FORMAT_NAMES.get(name, name), name) for name in FORMATS]
        self.model = gr.Dropdown(models, value=models[0], label="Preset or model", min_width=240)
        self.mask = gr.Radio(masks, value=ExtractionSettings.mask, label="Mask", min_width=240)
        with gr.Column(min_width=240):
            self.format = gr.Dropdown(formats, value=ExtractionSettings.format, label="Format")
            partial = "Take a damaged song as far as it plays"
            self.keep_partial = gr.Checkbox(ExtractionSettings.keep_partial, label=partial)

    def _connect(self) -> None:
        # A song or a recording: whichever came last.
        self.song.upload(lambda: None, outputs=self.recording, queue=False, show_progress="hidden")
        self.recording.stop_recording(lambda: None, outputs=self.song, queue=False, show_progress="hidden")
        shown = [self.status, self.result, self.go, self.cancel]
        work = self.go.click(
            self._extract,
            inputs=[self.song, self.recording, self.model, self.mask, self.format, self.keep_partial],
            outputs=shown,
            show_progress="hidden",
            # The workshop has a line of its own, which tells how long it is.
            concurrency_limit=None,
        )
        work.failure(self._fail, outputs=shown, queue=False, show_progress="hidden")
        self.cancel.click(self._stop, queue=False, show_progress="hidden")

    def _extract(
        self,
        song: str | None,
        recording: str | None,
        model: str,
        mask: str,
        format_name: str,
        keep_partial: bool,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Work on a song; when the visitor leaves, Gradio closes this generator."""
        job, workshop = None, self._service.workshop
        yield markup.progress(Step("Beginning")), "", *_buttons(working=True)
        try:
            path = _only(song or recording)
            settings = ExtractionSettings(format=format_name, mask=mask, keep_partial=bool(keep_partial))
            name = "Recording" if song is None else path.stem
            job = workshop.start(Order(*_who(request), path, name, self._checkpoint(model), settings))
            for step in job.steps(workshop.n_ahead):
                yield markup.progress(step), gr.skip(), *_buttons(working=True)
            yield markup.note(_DONE), markup.players(job.result()), *_buttons(working=False)
        except ExtractionCancelledError:
            yield markup.note(_STOPPED), "", *_buttons(working=False)
        except VocalExtractionError as error:
            said = _in_words_of_the_page(str(error), self._service.visitors.root)
            yield markup.failure(said), "", *_buttons(working=False)
        finally:
            if job is not None:
                job.stop()

    def _checkpoint(self, model: str) -> Path:
        if model not in self._service.models:
            raise RefusedError(f"There is no model {model!r}. Those that are here: {', '.join(self._service.models)}.")
        return self._service.models[model]

    def _stop(self, request: gr.Request) -> None:
        self._service.workshop.stop(*_who(request))

    def _fail(self) -> Update:
        return markup.failure(_UNEXPECTED), "", *_buttons(working=False)


def _who(request: gr.Request) -> tuple[str, str]:
    """Return who asks, and in which of his tabs."""
    # Gradio wraps the request on which the gate wrote the token.
    return request.state.visitor, request.session_hash or ""


def _only(song: str | None) -> Path:
    if song is None:
        raise RefusedError("There is no song yet. Drop a file onto the page, or record one.")
    return Path(song)


def _in_words_of_the_page(text: str, root: Path) -> str:
    """Leave out where files lie on the server, and name options as the page does."""
    text = re.sub(rf"{re.escape(str(root))}{os.sep}\S*{os.sep}", "", text)
    for option, label in _OPTIONS.items():
        text = text.replace(option, label)
    return text


def _buttons(*, working: bool) -> Update:
    return gr.update(interactive=not working), gr.update(interactive=working)


def _build_reports(service: Service, tab: gr.Tab) -> None:
    """The second tab."""
    choice = gr.Dropdown([], label="Report", elem_id="report")
    frame = _html(elem_id="report-frame")

    def show(name: str | None) -> str:
        names = dict(reports_in(service.reports_folder))
        if name not in names:
            return markup.note(
                f"There is no report in {service.reports_folder} yet. python main.py evaluate makes one."
            )
        return markup.report_frame(report_address(name), name)

    def look(name: str | None) -> Update:
        names = list(dict(reports_in(service.reports_folder)))
        name = name if name in names else next(iter(names), None)
        return gr.update(choices=names, value=name, visible=bool(names)), show(name)

    tab.select(look, inputs=choice, outputs=[choice, frame], queue=False, show_progress="hidden")
    choice.input(show, inputs=choice, outputs=frame, queue=False, show_progress="hidden")
