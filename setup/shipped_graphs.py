"""``python setup/shipped_graphs.py``: write the graphs of the models that ship beside their checkpoints.

To be run after a checkpoint was replaced. The weights stay in the checkpoints: docs/edge.md.
"""

import numpy as np
import onnx

from vocal_extraction.atomic_files import write_bytes
from vocal_extraction.checkpointing import load_checkpoint, shipped_checkpoints
from vocal_extraction.checkpointing.shipped import member_paths
from vocal_extraction.exporting import exported

LEAST_BYTES = 64
"""Shorter weights stay in the graph."""


def main() -> None:
    """Write all graphs."""
    for path in {member for model in shipped_checkpoints().values() for member in member_paths(model)}:
        whole, _ = exported(load_checkpoint(path, runtime="torch"), fold=False)
        contents = path.read_bytes()
        for weight in whole.graph.initializer:
            if weight.data_type != onnx.TensorProto.FLOAT or len(weight.raw_data) < LEAST_BYTES:
                continue
            values = np.frombuffer(weight.raw_data, "<f4")
            for stored in (values.tobytes(), values.astype("<f2").tobytes()):  # as checkpoints may have them
                if (start := contents.find(stored)) >= 0:
                    onnx.external_data_helper.set_external_data(weight, path.name, start, len(stored))
                    weight.ClearField("raw_data")
                    break
        write_bytes(path.with_suffix(".onnx"), whole.SerializeToString())


if __name__ == "__main__":
    main()
