"""Files made to do harm: each is refused with one clear sentence, before anything of it happens."""

import builtins
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import forged_checkpoints as forged
import numpy as np
import pytest
import torch
from forged_checkpoints import Call, content, global_, not_loaded, refused

from vocal_extraction.checkpointing import load_checkpoint, read_checkpoint, read_metadata
from vocal_extraction.training.state import STATE_NAME, ResumeError, TrainingState

ROOT = Path(__file__).resolve().parents[2]
EVERY_WAY = (load_checkpoint, read_checkpoint, read_metadata)


def test_the_forger_can_make_one_that_loads(tmp_path):
    """So that the refusals below are of what each test adds."""
    assert load_checkpoint(forged.old_checkpoint(tmp_path / "a.pth", content())).sources == ("vocals",)


# Code

MARK = "mark-of-the-intruder"
CALLS = {
    "os.system": Call(os.system, f"touch {MARK}"),
    "builtins.eval": Call(eval, f"open({MARK!r}, 'w')"),
    "builtins.open": Call(open, MARK, "w"),
    "import": Call(builtins.__import__, "antigravity"),
}


def in_transforms(call):
    from vocal_extraction.compatibility import nussl

    tfm = nussl.datasets.transforms
    metadata = forged.old_metadata()
    metadata["train_dataset"]["transforms"] = tfm.Compose([tfm.SumSources([["bass"]]), call])
    return content(metadata=metadata)


def in_stft(call):
    from vocal_extraction.compatibility import nussl

    return content(metadata=forged.old_metadata(stft_params=nussl.STFTParams(call, 16, "sqrt_hann")))


PLACES = {
    "top": lambda call: call,
    "beside": lambda call: content(more=call),
    "config": lambda call: content(config=call),
    "metadata": lambda call: content(metadata=call),
    "deep in metadata": lambda call: content(metadata=forged.old_metadata(a=[({"b": [call]},)])),
    "key": lambda call: content(metadata=forged.old_metadata(a={(1, call): 2})),
    "state dict": lambda call: content(state_dict={**forged.weights(), "evil": call}),
    "weights' hooks": lambda call: content(
        state_dict={"w": Call(torch._utils._rebuild_tensor_v2, torch.zeros(1).storage(), 0, (1,), (1,), False, call)}
    ),
    "transforms": in_transforms,
    "stft": in_stft,
    "numpy": lambda call: content(
        metadata=forged.old_metadata(a=Call(np.float64(1).__reduce__()[0], np.dtype("f8"), call))
    ),
}


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """A folder in which the intruder's mark would be seen."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / MARK).exists()
    assert "antigravity" not in sys.modules


def test_the_calls_would_leave_their_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = CALLS["os.system"]
    call.function(*call.arguments)
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize("name", CALLS)
def test_calls_in_metadata_are_refused(quiet, name):
    refused(forged.old_checkpoint(quiet / "a.pth", content(metadata=forged.old_metadata(a=CALLS[name]))))


@pytest.mark.parametrize("place", PLACES)
def test_calls_are_refused_wherever_they_stand(quiet, place):
    refused(forged.old_checkpoint(quiet / "a.pth", PLACES[place](CALLS["os.system"])), by=EVERY_WAY)


@pytest.mark.parametrize("key", ["optimizer", "more"])
def test_a_training_state_that_holds_code_is_refused(quiet, key):
    call = CALLS["os.system"]
    run = TrainingState(_small_preset(), seed=0, device=torch.device("cpu"))
    run.save(quiet)
    state = torch.load(quiet / STATE_NAME, weights_only=True)
    state[key] = {"state": {0: {"step": call}}, "param_groups": [call]} if key == "optimizer" else call
    torch.save(state, quiet / STATE_NAME)
    with pytest.raises(ResumeError, match="cannot be resumed from"):
        run.load(quiet)


def _small_preset():
    from vocal_extraction.presets import Preset
    from vocal_extraction.settings import NetworkSettings, SignalSettings

    return Preset("small", signal=SignalSettings(44_100, 64, 16), network=NetworkSettings(hidden_size=4, num_layers=1))


STATE_THAT_HIDES_METHODS = (
    global_("collections.OrderedDict") + b")R" + b"}X\x05\x00\x00\x00items" + global_("posix.system") + b"sb."
)


@pytest.mark.parametrize(
    "pickled",
    [
        b"cposix\nsystem\n(X\x04\x00\x00\x00true" + b"tR.",
        b"c__builtin__\neval\n(X\x01\x00\x00\x001" + b"tR.",
        b"(X\x04\x00\x00\x00trueiposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nX\x04\x00\x00\x00trueo.",  # OBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"\x82\x01.",  # EXT1
        b"Pidentity\n.",  # PERSID
        b"\x80\x02" + STATE_THAT_HIDES_METHODS,
        b"\x80\x02X\x01\x00\x00\x00a)\x81.",  # NEWOBJ of a text
        b"\x80\x02X\x01\x00\x00\x00a)R.",  # REDUCE of one
        b"\x80\x02]}b.",  # BUILD of a list
        b"\x80\x02X\x07\x00\x00\x00storageQ.",
        b"\x80\x02" + global_("os.system") + b"X\x01\x00\x00\x00a\x85\x81.",
        b"\x80\x02" + global_("nussl.datasets.transforms.Cache") + b")\x81.",
        b"\x80\x02" + global_("nussl.datasets.transforms.os.system") + b")\x81.",
        b"\x80\x02" + global_("torch._utils._rebuild_parameter") + b")R.",
        b"\x80\x02" + global_("collections.OrderedDict") + b"]\x85R.",
    ],
)
def test_pickles_made_by_hand_are_refused(quiet, pickled):
    refused(forged.with_pickle(quiet / "a.pth", pickled), by=EVERY_WAY)


@pytest.mark.parametrize("name", CALLS)
def test_torch_refuses_calls_even_without_the_survey(quiet, monkeypatch, name):
    monkeypatch.setattr("vocal_extraction.checkpointing.reading.survey", lambda records: None)
    refused(forged.old_checkpoint(quiet / "a.pth", content(metadata=forged.old_metadata(a=CALLS[name]))))


def test_what_torch_allows_by_itself_is_no_plain_value(quiet, monkeypatch):
    """The last step alone: torch would make a set, a complex number and a bytearray."""
    monkeypatch.setattr("vocal_extraction.checkpointing.reading.survey", lambda records: None)
    for value in ({1}, 1j, bytearray(2), b"bytes", torch.device("cpu"), torch.float32):
        path = forged.old_checkpoint(quiet / "a.pth", content(metadata=forged.old_metadata(a=value)))
        refused(path, "more than weights and plain values")


def test_functions_are_no_values(quiet):
    """A name alone calls nothing, but has no place among data either."""
    refused(forged.old_checkpoint(quiet / "a.pth", content(metadata=forged.old_metadata(a=OrderedDict))))


def test_attributes_that_hide_methods_are_dropped(quiet):
    class Disguised:
        def __reduce__(self):
            attributes = {"items": 1, "values": 1, "keys": 1, "__iter__": 1}
            return OrderedDict, (), attributes, None, iter(forged.weights().items())

    disguised = Disguised()
    model = load_checkpoint(forged.old_checkpoint(quiet / "a.pth", content(state_dict=disguised)))
    assert model.sources == ("vocals",)


# Memory


def grown(path):
    """Return how many MiB a process grew in which every file of a folder was refused."""
    code = (
        "import contextlib, re, sys, pathlib\n"
        "from vocal_extraction import checkpointing\n"
        "checkpointing.rebuild\n"  # which imports torch
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    with contextlib.suppress(checkpointing.CheckpointError): checkpointing.read_metadata(file)\n"
        "    try: checkpointing.load_checkpoint(file)\n"
        "    except checkpointing.CheckpointError: pass\n"
        "    else: raise SystemExit(f'{file} was loaded')\n"
        "print((peak() - before) // 1024)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def storage(key="0", kind="torch.FloatStorage", n_elements=4):
    """Return the opcodes of a tensor's storage."""
    texts = [b"X" + struct.pack("<I", len(text)) + text.encode() for text in ("storage", key, "cpu")]
    return b"(" + texts[0] + global_(kind) + texts[1] + texts[2] + b"J" + struct.pack("<i", n_elements) + b"tQ"


def tensor(size, stride, *, offset=0, **storage_options):
    """Return the opcodes of a tensor."""

    def numbers(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    called = global_("torch._utils._rebuild_tensor_v2") + b"(" + storage(**storage_options)
    place = b"\x8a\x08" + struct.pack("<q", offset) + numbers(size) + numbers(stride)
    return called + place + b"\x89" + global_("collections.OrderedDict") + b")RtR"


def of_many_sources(*, n_members, n_sources=500, **metadata):
    """Return a network of the longest window, or an ensemble (0: none), of which all weights are one element."""
    from vocal_extraction.compatibility import nussl
    from vocal_extraction.networks import MaskInference

    arguments = {**forged.ARGUMENTS, "num_features": 8_193, "hidden_size": 1, "num_sources": n_sources}
    with torch.device("meta"):
        shapes = {name: values.shape for name, values in MaskInference(**arguments).state_dict().items()}
    zeros = {name: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for name, shape in shapes.items()}
    config = forged.tutorial_config(**arguments)
    prefixes = [f"members.{number}." for number in range(n_members)] or [""]
    if n_members:
        arguments |= {"member": "MaskInference", "n_members": n_members}
        config["modules"]["model"].update({"class": "EnsembleMaskInference", "args": arguments})
    return content(
        config=json.dumps(config),
        metadata=forged.old_metadata(stft_params=nussl.STFTParams(16_384, 4_096, "sqrt_hann"), **metadata),
        state_dict={f"layers.model.{prefix}{name}": zeros[name] for prefix in prefixes for name in zeros},
    )


def bombs(folder):
    """Write files that ask for gigabytes, by many ways."""
    encode, text = global_("_codecs.encode"), b"X\x04\x00\x00\x00abcd"
    hexadecimal = b"X\x03\x00\x00\x00hexq\x01"
    huge = b"\x8a\x05" + (10**10).to_bytes(5, "little")
    items = b"".join(b"M" + struct.pack("<H", number) + b"N" for number in range(2**16))
    copied = b"}q\x00(" + items + b"u" + global_("collections.OrderedDict") + b"q\x01" + b"h\x01)Rh\x00b" * 10_000
    pickles = {
        "doubled": b"\x80\x02" + hexadecimal + encode * 40 + text + b"h\x01\x86R" * 40 + b".",
        "bytearray": b"\x80\x02" + global_("builtins.bytearray") + huge + b"\x85R.",
        "tensor": b"\x80\x02" + global_("torch.Tensor") + huge + b"\x85R.",
        "storage": b"\x80\x02" + global_("torch.storage.UntypedStorage") + huge + b"\x85R.",
        "void": b"\x80\x02" + global_("numpy.dtype") + b"X\x0b\x00\x00\x00V2000000000\x89\x88\x87R.",
        "larger": b"\x80\x02" + tensor((10**9,), (1,)) + b".",
        "repeated": b"\x80\x02" + tensor((10**5, 10**5), (0, 0)) + b".",
        "missing": b"\x80\x02" + tensor((10**9,), (1,), n_elements=10**9) + b".",
        "copied": b"\x80\x02(" + copied + b"t.",
        "marks": b"\x80\x02" + b"(" * 2_000_000 + b".",
        "tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    }
    for name, pickled in pickles.items():
        forged.with_pickle(folder / f"{name}.pth", pickled, **{"data/0": bytes(16)})
    for name, arguments in {
        "hidden": {"hidden_size": 10**9},
        "bins": {"num_features": 10**9},
        "layers": {"num_layers": 10**9},
        "sources": {"num_sources": 10**9},
        "some layers": {"num_layers": 40, "hidden_size": 2**20},
    }.items():
        config = json.dumps(forged.tutorial_config(**arguments))
        forged.old_checkpoint(folder / f"{name}.pth", content(config=config))
    for n_members in (0, 1, 16):
        forged.old_checkpoint(folder / f"expanded {n_members}.pth", of_many_sources(n_members=n_members))
    shared: list = [0] * 1_000
    for _ in range(8):
        shared = [shared] * 1_000
    forged.old_checkpoint(folder / "laughs.pth", content(metadata=forged.old_metadata(a=shared)))
    forged.write_archive(folder / "zip.pth", {"data.pkl": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_no_bomb_goes_off(tmp_path):
    bombs(tmp_path)
    assert len(list(tmp_path.iterdir())) == 21
    # What the largest of the files hold takes it; each of them asks for half a gigabyte at least.
    assert grown(tmp_path) < 64


def test_a_network_of_a_billion_units_is_refused_by_its_number(tmp_path):
    config = json.dumps(forged.tutorial_config(hidden_size=10**9))
    path = forged.old_checkpoint(tmp_path / "a.pth", content(config=config))
    not_loaded(path, "'hidden_size' is 1000000000, at most 1048576 is accepted")


@pytest.fixture
def nothing_built(monkeypatch):
    """Whoever is refused by a number must not have been given memory by then."""

    def build(*_):
        raise AssertionError("it was built")

    monkeypatch.setattr("vocal_extraction.checkpointing.rebuilding.MaskNetwork", build)
    monkeypatch.setattr("vocal_extraction.checkpointing.rebuilding._compare", build)


@pytest.mark.usefixtures("nothing_built")
def test_sources_are_counted_before_a_network_is_built(tmp_path):
    """Five hundred took half a gigabyte, and were refused for their names."""
    config = json.dumps(forged.tutorial_config(num_sources=17))
    path = forged.old_checkpoint(tmp_path / "a.pth", content(config=config, state_dict=forged.weights(num_sources=17)))
    not_loaded(path, "'num_sources' is 17, at most 16 is accepted")


@pytest.mark.usefixtures("nothing_built")
def test_layers_are_counted_before_a_network_is_built(tmp_path):
    """A thousand layers without memory took twelve seconds to build."""
    arguments = {**forged.ARGUMENTS, "member": "BandSplitMaskInference", "n_members": 16, "num_layers": 64}
    config = forged.tutorial_config()
    config["modules"]["model"].update({"class": "EnsembleMaskInference", "args": arguments})
    path = forged.old_checkpoint(tmp_path / "a.pth", content(config=json.dumps(config)))
    not_loaded(path, "weights, 1024 layers")


@pytest.mark.usefixtures("nothing_built")
def test_masks_of_a_whole_ensemble_are_bounded(tmp_path, monkeypatch):
    """Masks of 16 members, 8 channels and 16 sources side by side would take 640 MiB, and be averaged."""
    monkeypatch.setattr("vocal_extraction.checkpointing.reading.survey", lambda records: None)
    contents = of_many_sources(n_members=16, n_sources=16, num_channels=8)
    not_loaded(forged.old_checkpoint(tmp_path / "a.pth", contents), "it makes 167792640 values of 5 frames")


@pytest.mark.parametrize(
    "opcodes, reason",
    [
        (tensor((5,), (1,)), "larger than its elements"),
        (tensor((4,), (1,), offset=1), "larger than its elements"),
        (tensor((2, 2), (3, 1)), "larger than its elements"),
        (tensor((2**40,), (0,)), "its tensors take 1099511627776 elements of 4"),
        (tensor((5,), (0,)), "its tensors take 5 elements of 4"),
        (tensor((3, 2), (1, 1)), "its tensors take 6 elements of 4"),
        (tensor((4,), (1,)) + tensor((2,), (1,)) + b"\x86", "its tensors take 6 elements of 4"),
        (3 * tensor((4,), (1,)) + b"\x87", "its tensors take 8 elements of 4"),
        (tensor((-1,), (1,)), "no shape"),
        (tensor((2,), (1, 1)), "no shape"),
        (tensor((1,) * 9, (1,) * 9), "no shape"),
        (tensor((4,), (1,), n_elements=5), "not all there"),
        (tensor((4,), (1,), key="1"), "its elements '1' are not all there"),
        (tensor((4,), (1,), kind="torch.DoubleStorage"), "not all there"),
        (storage() + storage(kind="torch.DoubleStorage", n_elements=2) + b"\x86", "two kinds"),
    ],
)
def test_tensors_beyond_their_elements_are_refused(tmp_path, opcodes, reason):
    refused(forged.with_pickle(tmp_path / "a.pth", b"\x80\x02" + opcodes + b".", **{"data/0": bytes(16)}), reason)


def test_metadata_that_holds_itself_is_refused(tmp_path):
    metadata = forged.old_metadata()
    metadata["a"] = [metadata]
    path = forged.old_checkpoint(tmp_path / "a.pth", content(metadata=metadata))
    refused(path, "too large or too deep", by=EVERY_WAY)


def test_text_that_cannot_be_written_is_refused(tmp_path):
    path = forged.old_checkpoint(tmp_path / "a.pth", content(metadata=forged.old_metadata(a="\ud800")))
    refused(path, "is damaged .*surrogates")


# Every way to a pickle


def sources():
    """Return the text of every Python file of this project, by path."""
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def test_nothing_else_reads_pickles():
    """Beside `torch.load`, other loaders run code as well."""
    loaders = (
        r"\b(c?pickle\.(load|loads|Unpickler)|from pickle import|import (dill|shelve|marshal|cloudpickle)|joblib\.load|"
    )
    loaders += (
        r"torch\.(jit|hub|package)\.|read_pickle|yaml\.(unsafe_|full_)?load|allow_pickle=True|weights_only=False)"
    )
    own = ("tests/checkpointing/test_hostile_checkpoints.py", "tests/test_layout.py")
    found = [
        f"{name}: {match[0]}"
        for name, text in sources().items()
        for match in re.finditer(loaders, text)
        if name not in own
    ]
    assert found == []


def test_every_torch_load_is_weights_only():
    calls = [
        (name, text[at.end() :][:120]) for name, text in sources().items() for at in re.finditer(r"torch\.load\(", text)
    ]
    assert {name for name, _ in calls} >= {
        f"vocal_extraction/{name}.py" for name in ("checkpointing/reading", "training/state")
    }
    # The second runs what users write, with torch's default, which is the same.
    own = ("tests/checkpointing/test_hostile_checkpoints.py", "tests/test_compatibility.py")
    assert [name for name, call in calls if "weights_only=True" not in call and name not in own] == []
