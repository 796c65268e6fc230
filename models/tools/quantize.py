"""Makes an int8 model of a float one: static, QDQ, weights by channel, for ONNX Runtime and tract.

Needs PyPI: requirements.txt.  The same input gives the same bytes on the same kind of processor.

What it does beyond onnxruntime.quantization, and why:
  - What stands before the first and after the last weights stays float, and so do the outputs: a step of a byte in
    a logit is a visible loss, and costs no time.
  - The range of the picture itself is known (black to white), so that no byte of it is lost.
  - Weights are scaled so that no two products that AVX2 adds up in 16 bits can go beyond them (see `scales`): the
    model is right on processors without VNNI too, with more than the seven bits of onnxruntime's reduce_range.
  - The mean error that rounding the weights makes in each channel is taken out of its bias (see `correct`).
  - Batch normalisation becomes part of a convolution.
  - The number of pictures at a time is left open.

Usage: quantize.py MODEL FLOAT.onnx CALIBRATION OUT.onnx [CATALOG]
  MODEL        its name in the catalog, for how a picture goes in
  CALIBRATION  a folder of pictures (for an expression model: faces from edge to edge), or the wheel of scikit-image
  CATALOG      ../catalog.toml where it is not told
"""
import pathlib
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import numpy_helper, version_converter
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

import calibration
import pictures

WEIGHTED = ("Conv", "Gemm", "MatMul")
# What is computed in bytes where all around it is; whatever else a graph holds stays float.
QUANTISED = [*WEIGHTED, "Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten",
             "Reshape", "Transpose", "Resize", "DepthToSpace"]
# QuantizeLinear by channel came with 13.
OPSET = 13
LARGEST = 127
# Two products of a byte with a weight, added up in 16 bits with sign: 255 * (a + b) < 32768, half a step of rounding each.
PAIR = 127.5


def without_norms(model):
    """Puts each BatchNormalization into the Conv before it, or makes a Conv by channel of it: bytes know no other way."""
    constants = {one.name: one for one in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    read = lambda name: numpy_helper.to_array(constants[name]).astype(np.float64)
    ports = {port.name for port in model.graph.output}
    for index, norm in enumerate(model.graph.node):
        if norm.op_type != "BatchNormalization" or not all(name in constants for name in norm.input[1:5]):
            continue
        gain, shift, mean, variance = (read(name) for name in norm.input[1:5])
        gain = gain / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        before, source, result = made.get(norm.input[0]), norm.input[0], norm.output[0]
        users = sum(source in node.input for node in model.graph.node)
        fold = (before is not None and before.op_type == "Conv" and users == 1 and source not in ports
                and all(name in constants for name in before.input[1:]))
        if fold:
            weights = read(before.input[1]) * gain.reshape(-1, 1, 1, 1)
            bias = (read(before.input[2]) if len(before.input) > 2 else 0.0) - mean
            inputs, kept, attributes = before.input[:1], before, before.attribute
        else:
            weights, bias = gain.reshape(-1, 1, 1, 1), -mean
            inputs, kept = [source], norm
            attributes = [onnx.helper.make_attribute("group", len(gain)), onnx.helper.make_attribute("kernel_shape", [1, 1])]
        values = {f"{result}_w": weights, f"{result}_b": bias * gain + shift}
        model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items())
        conv = onnx.NodeProto(op_type="Conv", input=[*inputs, *values], output=[result], attribute=attributes)
        place = next(i for i, node in enumerate(model.graph.node) if node is kept or node == kept)
        model.graph.node[place].CopyFrom(conv)
        made[result] = model.graph.node[place]
        if fold:
            norm.op_type, norm.domain = "Identity", "gone"
    for node in [node for node in model.graph.node if node.domain == "gone"]:
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for one in [one for one in model.graph.initializer if one.name not in used]:
        model.graph.initializer.remove(one)


class Graph:
    """A float model whose nodes have names, its constants, and what is computed of it for a picture."""

    def __init__(self, model):
        # Older files list their weights among the inputs; then they could be replaced, and are not folded.
        constants = {one.name for one in model.graph.initializer}
        inputs = [one for one in model.graph.input if one.name not in constants]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < OPSET:
            model = version_converter.convert_version(model, OPSET)
        without_norms(model)
        self.model = model
        for node in model.graph.node:
            node.name = node.output[0]
        self.constants = {one.name: one for one in model.graph.initializer}
        self.input = inputs[0].name
        self.weighted = [n for n in model.graph.node if n.op_type in WEIGHTED and n.input[1] in self.constants]
        if not self.weighted:
            raise SystemExit("the model has no Conv, Gemm or MatMul with weights: there is nothing to quantise")

    def weights(self, node):
        """The weights of a node with the output channel first."""
        values = numpy_helper.to_array(self.constants[node.input[1]]).astype(np.float64)
        return values.T if self.transposed(node) else values

    def transposed(self, node):
        """Gemm without transB, and MatMul: weights of input by output."""
        return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))

    def reach(self, forwards):
        """The nodes that come after (or before) a node with weights, itself included."""
        nodes = self.model.graph.node if forwards else reversed(self.model.graph.node)
        tensors, names = set(), set()
        for node in nodes:
            ends, others = (node.input, node.output) if forwards else (node.output, node.input)
            if node in self.weighted or tensors & set(ends):
                names.add(node.name)
                tensors |= set(others)
        return names

    def session(self, outputs=()):
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
        return session(model)


def attribute(node, name, default):
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # The order in which numbers are added depends on the threads, and the ranges on that order.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def observe(graph, nodes, inputs, entry):
    """Smallest and largest value of every tensor around the nodes; the mean of each channel before each weight."""
    before = {node.input[0] for node in graph.weighted}
    names = sorted({t for node in nodes for t in (*node.input[:1], *node.output)} | before |
                   {t for node in nodes for t in node.input if t and t not in graph.constants})
    reader = graph.session([name for name in names if name != graph.input])
    ranges, means = {}, {}
    for value in inputs:
        for name, values in outputs_of(reader, graph.input, value).items():
            if name not in names:
                continue
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
            if name in before:
                channels = values.astype(np.float64)
                channels = channels.mean(axis=(0, *range(2, channels.ndim)))
                means[name] = means.get(name, 0) + channels / len(inputs)
    # What is computed of a pixel alone has the range that black and white give.
    height, width, channels = pictures.measures(entry["input"])
    flat = [pictures.tensor(np.full((height, width, channels), v, np.uint8), entry["input"]) for v in (0, 255)]
    late = graph.reach(forwards=True)
    made_late = {t for node in graph.model.graph.node if node.name in late for t in node.output}
    ends = [outputs_of(reader, graph.input, value) for value in flat]
    for name in names:
        if name not in made_late and name in ranges:
            both = [values[name] for values in ends]
            ranges[name] = (float(min(v.min() for v in both)), float(max(v.max() for v in both)))
    return {name: widened(*pair) for name, pair in ranges.items()}, means


def outputs_of(reader, name, value):
    found = reader.run(None, {name: value})
    return {name: value, **{port.name: out for port, out in zip(reader.get_outputs(), found)}}


def widened(low, high):
    """The range with zero in it, its ends moved out by less than 0.4 %, so that last digits do not matter."""
    return tuple(np.float32(outwards(end)) for end in (min(low, 0.0), max(high, 0.0)))


def outwards(end):
    fraction, exponent = np.frexp(end)
    # Ends that are known (6 of a Clip, the 255 steps of a picture) are such numbers to the last digit, and stay.
    return float(np.ldexp(np.sign(fraction) * np.ceil(np.round(abs(fraction) * 512, 3)), exponent - 9))


def scales(graph, node, step):
    """The scale of each output channel's weights; `step` is that of the input."""
    weights = graph.weights(node)
    rows = weights.reshape(len(weights), -1)
    need = np.abs(rows).max(axis=1) / LARGEST
    if attribute(node, "group", 1) == 1:
        # In the order in which ONNX Runtime multiplies: the channel last.  It does not use that way by channel groups.
        order = np.moveaxis(weights, 1, -1).reshape(len(weights), -1) if weights.ndim > 2 else rows
        order = np.pad(order, ((0, 0), (0, order.shape[1] % 2)))
        one, other = order[:, 0::2], order[:, 1::2]
        for sign in (1, -1):
            sums = np.maximum(sign * one, 0) + np.maximum(sign * other, 0)
            need = np.maximum(need, sums.max(axis=1) / PAIR)
    if len(node.input) > 2:
        # The bias is a whole number of steps of input and weight in 32 bits: a channel without weights needs large ones.
        bias = np.abs(numpy_helper.to_array(graph.constants[node.input[2]]).astype(np.float64).reshape(-1))
        need = np.maximum(need, bias / (step * 2.0**28))
    return np.maximum(need, np.finfo(np.float32).tiny * 2**24).astype(np.float32)


def correct(graph, node, scale, mean):
    """Takes the mean error of the rounded weights out of the bias: the one thing that rounding does to every picture."""
    if len(node.input) < 3:
        return
    weights = graph.weights(node)
    steps = scale.astype(np.float64).reshape((-1,) + (1,) * (weights.ndim - 1))
    error = np.clip(np.rint(weights / steps), -LARGEST, LARGEST) * steps - weights
    error = error.reshape(*error.shape[:2], -1).sum(axis=2)
    groups = attribute(node, "group", 1)
    # Of each output channel: the means of the input channels that it sees.
    seen = np.repeat(mean.reshape(groups, -1), len(error) // groups, axis=0)
    bias = graph.constants[node.input[2]]
    values = numpy_helper.to_array(bias).astype(np.float64)
    values = values - (error * seen).sum(axis=1).reshape(values.shape)
    bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), bias.name))


def float_ends(model):
    """An output that is a byte made float again is taken from before."""
    made = {name: node for node in model.graph.node for name in node.output}
    for port in model.graph.output:
        back = made[port.name]
        if back.op_type != "DequantizeLinear" or made[back.input[0]].op_type != "QuantizeLinear":
            continue
        down = made[back.input[0]]
        if sum(back.input[0] in node.input for node in model.graph.node) > 1:
            continue
        source = made[down.input[0]]
        source.output[list(source.output).index(down.input[0])] = port.name
        for node in (down, back):
            model.graph.node.remove(node)


def in_order(model):
    """Puts each node after those that it needs; the quantiser adds its own at the end."""
    made = {name for node in model.graph.node for name in node.output}
    waiting, ready = list(model.graph.node), set()
    ordered = []
    while waiting:
        late = []
        for node in waiting:
            if any(name in made and name not in ready for name in node.input):
                late.append(node)
            else:
                ordered.append(node)
                ready |= set(node.output)
        waiting = late
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def open_batch(model, value):
    """The model for any number of pictures, where two at a time give what each gives alone; else as it is."""
    del model.graph.value_info[:]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {one.name: one for one in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]]).copy()
            # 0 is: as many as there were.
            shape[0] = 0 if shape[0] == 1 else shape[0]
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))
    for port in (*made.graph.input, *made.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    name = model.graph.input[0].name
    try:
        one = session(model).run(None, {name: value})
        two = session(made).run(None, {name: np.concatenate([value, value])})
    except Exception as error:  # The runtime has a class for each of its complaints, and all mean the same here.
        print(f"the graph takes one picture at a time only: {str(error).splitlines()[0]}", file=sys.stderr)
        return model
    same = all(b.shape == (2, *a.shape[1:]) and np.allclose(np.concatenate([a, a]), b, atol=1e-4) for a, b in zip(one, two))
    return made if same else model


def quantise(model, entry, photos):
    graph = Graph(model)
    inside = graph.reach(forwards=True) & graph.reach(forwards=False)
    nodes = [n for n in graph.model.graph.node if n.name in inside and n.op_type in QUANTISED]
    values = [pictures.prepare(photo, entry["input"]) for photo in photos]
    ranges, means = observe(graph, nodes, values, entry)
    overrides = {}
    for node in graph.weighted:
        low, high = ranges[node.input[0]]
        scale = scales(graph, node, max(float(high) - float(low), 1e-12) / 255)
        correct(graph, node, scale, means[node.input[0]])
        axis = 1 if graph.transposed(node) else 0
        overrides[node.input[1]] = [{"axis": axis, "quant_type": QuantType.QInt8, "scale": one, "zero_point": np.int8(0)}
                                    for one in scale]
    tensors = TensorsData(CalibrationMethod.MinMax, {name: pair for name, pair in ranges.items()})
    worker = QDQQuantizer(
        graph.model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8, activation_qType=QuantType.QUInt8,
        tensors_range=tensors, nodes_to_quantize=[n.name for n in nodes], nodes_to_exclude=[], op_types_to_quantize=QUANTISED,
        extra_options={"TensorQuantOverrides": overrides, "WeightSymmetric": True, "ActivationSymmetric": False})
    worker.quantize_model()
    made = worker.model.model
    float_ends(made)
    in_order(made)
    made = open_batch(made, values[0])
    made.producer_name, made.producer_version = "shunt models quantize", ""
    # By name: the order in which they are found is not part of the result.
    constants = sorted(made.graph.initializer, key=lambda one: one.name)
    del made.graph.initializer[:]
    made.graph.initializer.extend(constants)
    onnx.checker.check_model(made)
    return made


def main():
    if len(sys.argv) not in (5, 6):
        raise SystemExit(__doc__)
    name, source, photos, target = sys.argv[1:5]
    entry = pictures.catalog(*sys.argv[5:])["models"].get(name)
    if entry is None:
        raise SystemExit(f"the catalog has no model {name!r}")
    if entry["format"] != "onnx" or entry.get("input", {}).get("type", "f32") != "f32":
        raise SystemExit(f"{name} is no float ONNX model")
    if "input" not in entry:
        raise SystemExit(f"the catalog does not say how a picture goes into {name}")
    of = calibration.of_wheel if photos.endswith(".whl") else calibration.of_folder
    warnings.filterwarnings("ignore", module="onnxruntime")
    try:
        model = onnx.load(source)
    except DecodeError as error:
        raise SystemExit(f"{source} is not an ONNX file: {error}")
    model = quantise(model, entry, of(photos, entry["task"]))
    pathlib.Path(target).write_bytes(model.SerializeToString(deterministic=True))
    print(f"{target}: {pathlib.Path(target).stat().st_size} bytes, sha256 {pictures.digest(target)}")


if __name__ == "__main__":
    main()
