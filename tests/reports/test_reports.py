"""Tables, charts and pages: what they say is what went in, whatever a song is called, and nothing is loaded."""

import html.parser
import io
import json
import re
from itertools import product

import numpy as np
import pytest
import soundfile
from PIL import Image
from report_examples import HOSTILE, SONGS, comparison, history, page, summary, tone

from vocal_extraction.reports.charts import axis_over, bar_chart, box_chart, dot_chart
from vocal_extraction.reports.page import coded, comparison_page
from vocal_extraction.reports.pictures import peak_magnitude, spectrogram_png
from vocal_extraction.reports.style import DARK, LIGHT
from vocal_extraction.reports.tables import comparison_table, notes, report_card, text_table
from vocal_extraction.reports.training_plots import write_loss_plot


class _Parsed(html.parser.HTMLParser):
    """Tags with their attributes, and all text; complains of tags that are not closed in order."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self, content):
        super().__init__()
        self.tags, self.text, self._open = [], [], []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_says_what_went_in():
    parsed = _Parsed(page())
    text = "".join(parsed.text)
    assert "models/best.model.pth" in text
    assert "2026-11-25, Linux x86_64, commit 0123abc, preset classic" in text
    assert "1.08 dB" in text
    assert "5.18 dB better than the untouched mixture" in text
    assert "6.07 dB worse than what an ideal ratio mask reaches" in text
    assert "1.08 ± 1.50" in text
    assert "−4.10" in text
    for song in SONGS:
        assert song in text


def test_the_page_loads_nothing_and_runs_nothing():
    parsed = _Parsed(page())
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), tag
    assert "://" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", page())
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert re.search(r"@import|url\(", page()) is None


def test_a_hostile_name_stays_text():
    parsed = _Parsed(page())
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert any(HOSTILE in text for text in parsed.text)
    assert any(HOSTILE in attributes.get("alt", "") for tag, attributes in parsed.tags if tag == "img")


def test_pictures_have_words_and_players_have_names():
    parsed = _Parsed(page())
    assert all(attributes["alt"] for tag, attributes in parsed.tags if tag == "img")
    assert all(attributes["aria-label"] for tag, attributes in parsed.tags if tag == "audio")
    assert sum(tag == "audio" for tag, _ in parsed.tags) == 2


def test_every_metric_has_a_box_for_each_source():
    text = page()
    boxes = re.findall(r'<span class="name">(\S+), (vocals|rest)</span>', text[text.index("Spread over") :])
    assert boxes == [(metric, source) for metric in ("SI-SDR", "SNR", "SDR") for source in ("vocals", "rest")]


def test_songs_are_sorted_by_score():
    text = page()
    bars = text[text.index("Song by song") :]
    assert bars.index("C - D") < bars.index("A - B") < bars.index("&lt;script&gt;")


def contrast(colour: str, ground: str) -> float:
    """Return the contrast ratio of two ``#rrggbb`` colours, 1 to 21 (WCAG 2.2, "contrast ratio").

    >>> round(contrast("#000000", "#ffffff"), 3)
    21.0
    """
    brighter, darker = sorted((_luminance(colour), _luminance(ground)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2, "relative luminance")."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read(palette):
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text."""
    texts = (palette.ink, palette.muted, palette.model, palette.oracle, palette.baseline, palette.worse)
    for text, ground in product((*texts, palette.accompaniment), (palette.ground, palette.panel)):
        assert contrast(text, ground) >= 4.5, (text, ground)


def test_page_of_a_comparison():
    text = " ".join(_Parsed(comparison_page(comparison())).text)
    assert "−0.50 to +2.50 dB. It includes zero" in text
    assert "2 better, 1 worse, 0 equal" in text
    table = comparison_table(comparison())
    assert "| SI-SDR, vocals " in table
    assert "-0.50 to +2.50" in table
    assert "2/1/0" in table


def test_notes_name_who_is_left_out_once():
    found = notes(summary(left_out={"the reference is silent": ["A - B"]}))
    assert found == [
        "vocals: left out, since the reference is silent: A - B",
        "bass+drums+other: left out, since the reference is silent: A - B",
    ]
    assert "A - B" in report_card(summary(left_out={"the reference is silent": ["A - B"]}))
    assert notes(summary()) == []


def test_notes_tell_apart_rows_and_metrics():
    content = summary()
    content["rows"]["model"]["scores"]["SNR"]["vocals"]["left_out"] = {"it failed": [HOSTILE]}
    (note,) = notes(content)
    assert note.startswith("vocals, SNR, model: left out, since it failed: <script>")
    assert "\n" not in note


def test_report_card_is_the_specifications_table():
    lines = report_card(summary()).splitlines()
    head = next(line for line in lines if line.startswith("| Metric"))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["Metric", "Overall", "Bass+Drums+Other", "Vocals"]
    assert any(re.fullmatch(r"\| SI-SDR \|( +1\.08 ± 1\.50 \(3\) \|){3}", line) for line in lines)
    assert "SRR is the source-to-rescaled-source ratio" in "\n".join(lines)
    assert any(re.fullmatch(r"\| SDR +\|( +1\.33 \(3\) \|){3}", line) for line in lines), "the median of BSSEval"


def test_tables_keep_every_cell_in_its_place():
    table = text_table(["Song", "dB"], [[HOSTILE, "1.00"], ["a", "-20.00"]])
    assert len({len(line) for line in table.splitlines()}) == 1
    assert all(line.count("|") == 3 for line in table.splitlines())


@pytest.mark.parametrize("values", [[], [3.0], [-1e-12, 1e-12], [-100.0, 104.5], [float("nan"), 1.0]])
def test_axes_hold_their_values(values):
    axis = axis_over(values)
    assert axis.low < axis.high
    assert len(axis.ticks) >= 2
    assert all(axis.low <= value <= axis.high for value in values if np.isfinite(value))
    assert axis.percent(axis.low) == 0.0
    assert axis.percent(axis.high) == 100.0


def test_marks_stand_where_the_values_are():
    """From -5 to 5 the axis reaches to the ticks at -6 and 6, and its middle is 50%."""
    (dot,) = dot_chart([("a", "model", 0.0, 5.0, " (3)")], unit="dB").rows
    assert dot.marks == [("span", 8.33, 83.34), ("dot", 50.0, None)]
    assert (dot.value, dot.note) == ("0.00", " ± 5.00 (3)")
    first, second = bar_chart([("a", "model", -5.0, {}), ("b", "model", 5.0, {"baseline": 0.0})], unit="dB").rows
    assert first.marks == [("bar", 8.33, 41.67)]
    assert second.marks == [("bar", 50.0, 41.67), ("mark baseline", 50.0, None)]


def test_boxes_are_tukeys():
    """Of 1 to 9 the quartiles are 3, 5, 7; 30 lies more than one and a half boxes away."""
    full, empty = box_chart([("a", "model", [*range(1, 10), 30.0]), ("b", "model", [])], unit="dB").rows
    assert [kind for kind, _, _ in full.marks] == ["span", "box", "median", "outlier"]
    assert (full.value, full.note) == ("5.50", " (10)")
    assert (empty.marks, empty.note) == ([], "no values")


def test_rows_without_values_are_drawn_as_such():
    for chart in (
        dot_chart([("a", "model", None, None, "")], unit="dB"),
        bar_chart([("a", "model", None, {})], unit="dB"),
    ):
        assert [(row.marks, row.value) for row in chart.rows] == [([], "–")]


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_spectrogram_shows_a_tone_where_it_is(rate):
    """1 kHz on a logarithmic axis from 80 Hz; the brightest row of a tone is the row of its frequency."""
    png = spectrogram_png(tone(1_000, rate=rate), rate, full_scale=peak_magnitude(tone(1_000, rate=rate), rate))
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)
    assert image.shape == (200, 480)
    brightest = int(image[:, 200:280].mean(axis=1).argmax())
    highest = min(16_000, rate / 2)
    expected = 200 * (1 - np.log(1_000 / 80) / np.log(highest / 80))
    assert abs(brightest - expected) <= 3  # rows
    assert len(png) < 100_000


def test_silence_has_a_picture():
    silence = np.zeros((2, 4_000), np.float32)
    image = np.asarray(Image.open(io.BytesIO(spectrogram_png(silence, 8_000))).convert("RGB"))
    assert (image == image[0, 0]).all()


@pytest.mark.parametrize("rate, kind", [(44_100, "audio/mpeg"), (96_000, "audio/wav")])
def test_a_clip_sounds_like_what_it_was(rate, kind):
    content, found = coded(tone(1_000, rate=rate), rate)
    decoded, decoded_rate = soundfile.read(io.BytesIO(content))
    assert (found, decoded_rate, decoded.shape[1]) == (kind, rate, 2)
    assert np.abs(np.fft.rfft(decoded[:, 0])).argmax() * rate / len(decoded) == pytest.approx(1_000, abs=5)
    assert np.abs(decoded).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("rows", [[], history(1), history(50), [{"epoch": 1, "train_loss": float("nan")}]])
def test_training_plot_of_any_history(rows, tmp_path):
    write_loss_plot(rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (880, 770)  # 8 by 7 inches of 110 dots
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 10  # panels, titles and grid


def test_training_plot_marks_the_last_best_epoch(tmp_path):
    write_loss_plot(history(10), tmp_path / "plot.svg")
    from vocal_extraction.reports.training_plots import plot_training

    losses, rate, waiting = plot_training(history(10)).axes
    assert losses.get_legend_handles_labels()[1] == ["training", "validation", "best: epoch 6, 0.1667"]
    assert rate.lines[0].get_ydata() == pytest.approx([1e-3] * 10)
    assert waiting.lines[0].get_ydata() == pytest.approx([20.0] * 10)  # percent
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_example_content_is_json():
    assert json.loads(json.dumps(summary())) == summary()
