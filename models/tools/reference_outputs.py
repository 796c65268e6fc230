"""Writes reference outputs of the catalog's ONNX models, made with ONNX Runtime, for the conformance test of back ends.

Needs PyPI: onnxruntime==1.31.1, numpy==2.4.6.  Usage: reference_outputs.py FOLDER_OF_MODELS OUTPUT_FOLDER

The input needs no picture: value i (in the order of the model's input) of 0 to 255 is (i // 97 + i % 61 * 2) % 256,
then the catalog's scale and offset.  Of each output every n-th value is kept, 64 at most, and the mean of all.
"""
import json
import pathlib
import sys
import tomllib

import numpy as np
import onnxruntime

models, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
catalog = tomllib.loads((pathlib.Path(__file__).parent.parent / "catalog.toml").read_text())
onnxruntime.set_default_logger_severity(3)
for name, entry in catalog["models"].items():
    file = models / entry["file"]
    # A quantised model differs from runtime to runtime by more than this test allows; the catalog's golden answer is for it.
    if entry["format"] != "onnx" or "quantised_from" in entry or not file.exists():
        print("left out:", name)
        continue
    shape = entry["input"]["shape"]
    index = np.arange(int(np.prod(shape)))
    values = ((index // 97 + index % 61 * 2) % 256).astype(np.float32).reshape(shape)
    channel = [1, 3, 1, 1] if entry["input"]["layout"] == "nchw" else [1, 1, 1, 3]
    factor = lambda x: np.array(x, np.float32).reshape(channel) if isinstance(x, list) else np.float32(x)
    values = values * factor(entry["input"].get("scale", 1.0)) + factor(entry["input"].get("offset", 0.0))
    session = onnxruntime.InferenceSession(str(file))
    outputs = {}
    for port, value in zip(session.get_outputs(), session.run(None, {session.get_inputs()[0].name: values})):
        flat = value.reshape(-1).astype(np.float64)
        step = -(-flat.size // 64)
        outputs[port.name] = {"shape": list(value.shape), "step": step, "mean": float(flat.mean()),
                              "values": [float(np.float32(v)) for v in flat[::step]]}
    (target / f"{name}.json").write_text(json.dumps({"sha256": entry.get("sha256"), "runtime": "onnxruntime 1.31.1",
                                                    "outputs": outputs}, indent=1) + "\n")
    print("written:", name)
