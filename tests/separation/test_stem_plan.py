"""Which stems a model gives, and that they add up to the mixture."""

import numpy as np
import pytest

from vocal_extraction.errors import ExtractionError
from vocal_extraction.separation import stem_plan
from vocal_extraction.settings import ACCOMPANIMENT, STEMS

TWO = (ACCOMPANIMENT, "vocals")


@pytest.mark.parametrize(
    "sources, wanted, without, names",
    [
        (("vocals",), None, None, ["vocals", "-accompaniment"]),
        (STEMS, None, None, ["vocals", "-accompaniment"]),
        (TWO, None, None, ["vocals", "-accompaniment"]),
        (("drums",), None, None, ["drums", "-residual"]),
        (("bass", "drums"), None, None, ["bass", "drums", "-residual"]),
        (STEMS, ["all"], None, ["bass", "drums", "-other", "vocals"]),
        (("vocals",), ["all"], None, ["vocals", "-accompaniment"]),
        (TWO, ["all"], None, ["-accompaniment", "vocals"]),
        (("other",), ["all"], None, ["other", "-residual"]),
        (("drums", "vocals"), ["all"], None, ["drums", "vocals", "-residual"]),
        (STEMS, ["drums"], None, ["drums"]),
        (STEMS, ["other"], None, ["other"]),
        (STEMS, ["accompaniment"], None, ["-accompaniment"]),
        (STEMS, ["drums", "drums"], None, ["drums"]),
        (STEMS, ["vocals", "drums"], None, ["vocals", "drums", "-residual"]),
        (STEMS, ["accompaniment", "vocals"], None, ["-accompaniment", "vocals"]),
        (STEMS, ["vocals", "other", "drums", "bass"], None, ["vocals", "-other", "drums", "bass"]),
        (STEMS, None, ["drums"], ["-no_drums"]),
        (STEMS, None, ["drums", "bass"], ["-no_drums_bass"]),
        (("vocals",), None, ["vocals"], ["-accompaniment"]),
    ],
)
def test_stems_follow_from_sources_and_wishes(sources, wanted, without, names):
    plan = stem_plan(sources, wanted, without)
    assert [f"-{stem.name}" if stem.is_residual else stem.name for stem in plan.stems] == names
    assert list(plan.names) == [name.removeprefix("-") for name in names]
    assert set(plan.sources) <= set(sources)
    rng = np.random.default_rng(0)
    mixture = rng.integers(-999, 999, (50, 2)).astype(np.float32)
    estimates = {source: rng.integers(-999, 999, (50, 2)).astype(np.float32) for source in plan.sources}
    stems = plan.stems_of(mixture, estimates)
    assert list(stems) == list(plan.names)
    if len(stems) > 1:
        np.testing.assert_array_equal(sum(stems.values()), mixture)
    for stem in plan.stems:
        assert stem.is_residual or stems[stem.name] is estimates[stem.name]


@pytest.mark.parametrize(
    "sources, wanted, without, words",
    [
        (("vocals",), ["drums"], None, "no 'drums'; it has vocals, accompaniment"),
        (STEMS, ["piano", "vocals", "organ"], None, "no 'piano' or 'organ'; it has bass, drums, other, vocals"),
        (("drums",), ["accompaniment"], None, "no 'accompaniment'"),
        (STEMS, None, ["piano"], "no 'piano'"),
        (STEMS, ["vocals"], ["drums"], "not both"),
        (STEMS, ["drums", "accompaniment"], None, "alone or with the vocals"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(sources, wanted, without, words):
    with pytest.raises(ExtractionError, match=words):
        stem_plan(sources, wanted, without)
