"""docs/quickstart.ipynb, executed from another folder as a reader would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_quickstart_runs_from_another_folder(tmp_path):
    pytest.importorskip("nbconvert")
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "Python 3", "language": "python"}))
    notebook = tmp_path / "elsewhere" / "quickstart.ipynb"
    notebook.parent.mkdir()
    notebook.write_bytes((ROOT / "docs" / "quickstart.ipynb").read_bytes())
    # PYTHONPATH stands in for `pip install -e .`, so that the checkout at hand is tested.
    environment = {
        **os.environ,
        "JUPYTER_PATH": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", notebook.name]
    done = subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    playable = [output for output in outputs if "<audio" in "".join(output.get("data", {}).get("text/html", ""))]
    assert len(playable) == 2
    assert (notebook.parent / "quickstart" / "extracted").is_dir()
