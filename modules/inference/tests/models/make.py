#!/usr/bin/env python3
# Usage: make.py FOLDER
#
# Makes the small models of the tests, whose answers can be told by hand: `pip install onnx==1.23.2 numpy`.
#   colours  which of red, green, blue a picture has most of
#   inverse  which it has least of
#   four     as colours, with a fourth number that its card does not know
#   slow     as colours, after a lot of work
#   moods    a grey face: the brighter, the happier
#   waves    the sine of the sine of ... of rows of numbers, any number of rows, after a lot of work
#   types    gives back what it gets: an input and an output of each type of tensor, with an open batch
# Prints the golden answers of the first two for tests/models/catalog.toml.
import sys
from math import cos, floor, pi, sin
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

GAIN = 20.0


def constant(name, values):
    return numpy_helper.from_array(np.array(values, dtype=np.float32), name)


def save(file, nodes, shape, classes, constants):
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(nodes, file.stem, [picture], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


def means(source="picture"):
    return [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"], axis=1),
    ]


def colours(file, gains):
    nodes = means() + [helper.make_node("Mul", ["means", "gains"], ["scores"])]
    save(file, nodes, [1, 3, 16, 16], 3, [constant("gains", [gains])])


def four(file):
    nodes = means() + [helper.make_node("Gemm", ["means", "weights"], ["scores"])]
    weights = np.eye(3, 4) * GAIN
    save(file, nodes, [1, 3, 16, 16], 4, [constant("weights", weights)])


def slow(file):
    # The weights are made inside the graph, so that the file stays small.
    kernel = lambda name, shape, value: [
        helper.make_node("Constant", [], [name + "_shape"], value=numpy_helper.from_array(np.array(shape, dtype=np.int64))),
        helper.make_node("ConstantOfShape", [name + "_shape"], [name],
                         value=numpy_helper.from_array(np.array([value], dtype=np.float32))),
    ]
    nodes = kernel("first", [64, 3, 3, 3], 0.01) + kernel("more", [64, 64, 3, 3], 0.001)
    nodes.append(helper.make_node("Conv", ["picture", "first"], ["wide0"], pads=[1, 1, 1, 1]))
    for layer in range(12):
        nodes.append(helper.make_node("Conv", [f"wide{layer}", "more"], [f"wide{layer + 1}"], pads=[1, 1, 1, 1]))
    # Its sum counts for nothing in the answer, but must be known for it.
    nodes += [
        helper.make_node("ReduceMean", ["wide12"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nothing"], ["none"]),
        helper.make_node("Add", ["picture", "none"], ["same"]),
    ]
    nodes += means("same") + [helper.make_node("Mul", ["means", "gains"], ["scores"])]
    constants = [constant("gains", [[GAIN] * 3]), constant("nothing", 0.0)]
    save(file, nodes, [1, 3, 96, 96], 3, constants)


def moods(file):
    nodes = means() + [helper.make_node("Gemm", ["means", "weights", "bias"], ["scores"])]
    weights = np.array([[0, 8, 0, 0, 0, 0, 0, 0]])
    bias = np.array([4, 0, 0, 0, 0, 0, 0, 0])
    save(file, nodes, [1, 1, 64, 64], 8, [constant("weights", weights), constant("bias", bias)])


def types(file):
    names = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
    names += ["FLOAT16", "FLOAT", "DOUBLE"]
    port = lambda name, end: helper.make_tensor_value_info(f"{name.lower()}_{end}", getattr(TensorProto, name), ["batch", 2])
    nodes = [helper.make_node("Identity", [f"{name.lower()}_in"], [f"{name.lower()}_out"]) for name in names]
    inputs, outputs = ([port(name, end) for name in names] for end in ("in", "out"))
    graph = helper.make_graph(nodes, file.stem, inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


def waves(file, times=400, columns=1024):
    nodes = [helper.make_node("Sin", [f"y{index}"], [f"y{index + 1}"]) for index in range(times)]
    rows = helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["rows", columns])
    sines = helper.make_tensor_value_info(f"y{times}", TensorProto.FLOAT, ["rows", columns])
    model = helper.make_model(helper.make_graph(nodes, file.stem, [rows], [sines]),
                              opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


def golden_means(side):
    """The mean of each channel of the golden picture (crates/shunt-infer/src/golden.rs), 0 to 1."""
    sums = [0, 0, 0]
    for y in range(side):
        for x in range(side):
            for c in range(3):
                value = 127.5 + 60 * sin(2 * pi * x * (c + 2) / side) + 60 * cos(2 * pi * y * (3 - c) / side)
                sums[c] += min(max(floor(value), 0), 255)
    return [value / (side * side * 255) for value in sums]


def main():
    folder = Path(sys.argv[1])
    colours(folder / "colours.onnx", [GAIN] * 3)
    colours(folder / "inverse.onnx", [-GAIN] * 3)
    four(folder / "four.onnx")
    slow(folder / "slow.onnx")
    moods(folder / "moods.onnx")
    waves(folder / "waves.onnx")
    types(folder / "types.onnx")
    for name, gain in [("colours", GAIN), ("inverse", -GAIN)]:
        print(name, [[place, round(mean * gain, 4)] for place, mean in enumerate(golden_means(16))])


main()
