"""Prints what each model of the catalog answers to one known input: the catalog's `golden` tables, ready to be put in.

Needs PyPI: requirements.txt.  ONNX Runtime answers for ONNX files, LiteRT for TFLite files.
Usage: golden.py FOLDER_OF_MODELS[:FOLDER...] [MODEL...]

Pattern 1: the byte at column x of W, row y of H, channel c is, in float64,
  floor(127.5 + 60 * sin(2 * pi * (x * (c + 2) / W)) + 60 * cos(2 * pi * (y * (3 - c) / H)))
and then the catalog's scale, offset and layout.  Smooth, because noise makes a model answer nothing in particular.

Of each output 16 values are kept with their places in the output as one row: the eight largest, whatever their sign, and eight
spread evenly.  A quantised output is given as the numbers that its bytes stand for.

Tolerance, absolute: of a float model 0.001 of its largest value.  Of a quantised one three times the most by which any value
changes when ONNX Runtime computes the same file in float32 (every operator for itself, as back ends without int8 do it), and
two steps of a byte at least.
"""
import sys

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import pictures
from accuracy import Runner

PATTERN = 1
KEPT = 16


def pattern(given):
    height, width, channels = pictures.measures(given)
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    exact = 127.5 + 60 * np.sin(2 * np.pi * (x * (c + 2) / width)) + 60 * np.cos(2 * np.pi * (y * (3 - c) / height))
    # Then the last digits of a sine do not matter.
    assert np.abs(exact - np.rint(exact)).min() > 1e-9, "a value is too close to a whole number to be the same everywhere"
    return pictures.tensor(np.clip(np.floor(exact), 0, 255).astype(np.uint8), given)


def places(values):
    """The eight largest, and eight spread evenly."""
    if values.size <= KEPT:
        return list(range(values.size))
    largest = [int(one) for one in np.argsort(-np.abs(values), kind="stable")[: KEPT // 2]]
    spread = [(2 * index + 1) * values.size // KEPT for index in range(KEPT // 2)]
    return sorted({*largest, *spread})


def in_float(file, value):
    """The same file, each operator for itself: bytes are made float again before anything is computed of them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    ports = session.get_outputs()
    return {port.name: out for port, out in zip(ports, session.run(None, {session.get_inputs()[0].name: value}))}


def quantised(file, entry):
    return entry["format"] == "tflite" or any(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)


def tolerance(file, entry, value, outputs):
    largest = max(float(np.abs(values).max()) for values in outputs.values())
    if not quantised(file, entry):
        return 0.001 * largest
    if entry["format"] == "tflite":
        steps = [port["quantization"][0] for port in Interpreter(str(file)).get_output_details()]
        return 2 * max(steps)
    spread = max(float(values.max() - values.min()) for values in outputs.values())
    other = in_float(file, value)
    return max(3 * max(float(np.abs(other[name] - values).max()) for name, values in outputs.items()), 2 * spread / 255)


def digits(number, count):
    text = f"{float(number):.{count}g}"
    return text if any(one in text for one in ".en") else text + ".0"


def wanted(entry):
    """The outputs that the catalog reads; a file may have others."""
    output = entry["output"]
    names = [output[field] for field in ("boxes", "scores", "values") if field in output]
    return [name for one in names for name in (one if isinstance(one, list) else [one])]


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folders, only = [*sys.argv[1].split(":"), pictures.FOLDER], sys.argv[2:]
    for name, entry in pictures.catalog()["models"].items():
        if (only and name not in only) or "input" not in entry:
            continue
        file = pictures.find(entry, folders)
        if file is None:
            print(f"{name}: its file is not here", file=sys.stderr)
            continue
        value = pattern(entry["input"])
        outputs = Runner(file, entry).outputs(value)
        outputs = {one: outputs[one].astype(np.float32) for one in wanted(entry)}
        print(f"[models.{name}.golden]\npattern = {PATTERN}")
        print(f"tolerance = {digits(tolerance(file, entry, value, outputs), 2)}\n\n[models.{name}.golden.outputs]")
        for one, values in outputs.items():
            flat = values.reshape(-1)
            rows = ", ".join(f"[{place}, {digits(flat[place], 7)}]" for place in places(flat))
            print(f'"{one}" = [{rows}]')
        print()


if __name__ == "__main__":
    main()
