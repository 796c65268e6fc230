"""Makes networks of the shape of two that may not be committed, with generated weights: for measuring time, not for use.

  ferplus_zoo_shaped   VGG13 as in FER+ of the ONNX model zoo: 64x64x1 to 8
  resnet50v2_shaped    ResNet50v2 as in the zoo: 224x224x3 to 1000

Of each `NAME.onnx`, `NAME_int8.onnx` (by quantize.py), `NAME.tflite`, `NAME_int8.tflite` (int8 in and out).  How long a network
takes depends on its shape and not on its weights, and all four files of a network answer alike; the weights are such that numbers stay in a plausible range.  Batch
normalisation that stands right behind a convolution is folded into it, as every runtime does when it loads such a file.
The same seed gives the same weights.

Needs PyPI: requirements.txt.
Usage: shaped.py FOLDER [SEED]
"""
import pathlib
import sys

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import pictures
import quantize

SEED = 20260101


class Network:
    """A list of layers, each a dict; tensors are named by the layer that makes them.  Weights: output, height, width, input."""

    def __init__(self, name, shape, seed):
        self.name, self.shape, self.layers = name, shape, []
        self.dice = np.random.default_rng(seed)
        self.depth = {"in": shape[2]}

    def add(self, kind, *inputs, depth=None, **more):
        name = f"{kind}{len(self.layers)}"
        self.layers.append({"kind": kind, "name": name, "in": list(inputs), **more})
        self.depth[name] = depth or self.depth[inputs[0]]
        return name

    def draw(self, *shape, fan):
        return (self.dice.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32)

    def conv(self, x, depth, size, stride=1, relu=True):
        fan = self.depth[x] * size * size
        return self.add("conv", x, depth=depth, w=self.draw(depth, size, size, self.depth[x], fan=fan), size=size,
                        b=(self.dice.standard_normal(depth) * 0.05).astype(np.float32), stride=stride, relu=relu)

    def dense(self, x, width, depth, relu=True):
        return self.add("dense", x, depth=depth, w=self.draw(depth, 1, 1, width, fan=width), relu=relu,
                        b=(self.dice.standard_normal(depth) * 0.05).astype(np.float32))

    def norm(self, x):
        """Batch normalisation before an activation, behind a sum: a factor and an addend a channel."""
        factor = self.dice.uniform(0.4, 0.8, self.depth[x]).astype(np.float32)
        return self.add("norm", x, factor=factor, b=(self.dice.standard_normal(self.depth[x]) * 0.1).astype(np.float32))


def ferplus(seed):
    net = Network("ferplus_zoo_shaped", (64, 64, 1), seed)
    x = net.add("scale", "in", factor=1 / 255, addend=-0.5)
    for depth, count in ((64, 2), (128, 2), (256, 3), (256, 3)):
        for _ in range(count):
            x = net.conv(x, depth, 3)
        x = net.add("pool", x, size=2, stride=2)
    x = net.add("flat", x)
    x = net.dense(x, 4 * 4 * 256, 1024)
    x = net.dense(x, 1024, 1024)
    net.dense(x, 1024, 8, relu=False)
    return net


def resnet(seed):
    net = Network("resnet50v2_shaped", (224, 224, 3), seed)
    x = net.conv("in", 64, 7, stride=2)
    x = net.add("pool", x, size=3, stride=2)
    for stage, (depth, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for unit in range(count):
            stride = 2 if stage and not unit else 1
            y = net.norm(x)
            z = net.conv(y, depth, 1)
            z = net.conv(z, depth, 3, stride=stride)
            z = net.conv(z, depth * 4, 1, relu=False)
            x = net.add("sum", z, net.conv(y, depth * 4, 1, stride=stride, relu=False) if not unit else x)
    x = net.norm(x)
    x = net.add("mean", x)
    net.dense(x, 2048, 1000, relu=False)
    return net


# --- ONNX

def to_onnx(net, entry):
    nodes, constants = [], []
    name_in, name_out = entry["input"]["name"], entry["output"]["values"]

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    for layer in net.layers:
        kind, name = layer["kind"], layer["name"]
        inputs = [name_in if one == "in" else one for one in layer["in"]]
        result = name_out if layer is net.layers[-1] else name
        raw = result + "_raw" if layer.get("relu") or kind == "norm" else result
        if kind == "scale":
            node("Mul", [inputs[0], constant(name + "_m", np.float32(layer["factor"]))], name + "_scaled")
            node("Add", [name + "_scaled", constant(name + "_a", np.float32(layer["addend"]))], raw)
        elif kind == "conv":
            node("Conv", [inputs[0], constant(name + "_w", layer["w"].transpose(0, 3, 1, 2)), constant(name + "_b", layer["b"])], raw,
                 kernel_shape=[layer["size"]] * 2, strides=[layer["stride"]] * 2, auto_pad="SAME_UPPER")
        elif kind == "dense":
            node("Gemm", [inputs[0], constant(name + "_w", layer["w"][:, 0, 0]), constant(name + "_b", layer["b"])], raw, transB=1)
        elif kind == "norm":
            ones = [constant(f"{name}_{part}", value) for part, value in
                    (("g", layer["factor"]), ("b", layer["b"]), ("m", np.zeros_like(layer["b"])), ("v", np.ones_like(layer["b"])))]
            node("BatchNormalization", [inputs[0], *ones], raw, epsilon=0.0)
        elif kind == "pool":
            node("MaxPool", inputs, raw, kernel_shape=[layer["size"]] * 2, strides=[layer["stride"]] * 2, auto_pad="SAME_UPPER")
        elif kind == "sum":
            node("Add", inputs, raw)
        elif kind == "flat":
            node("Flatten", inputs, raw)
        elif kind == "mean":
            node("GlobalAveragePool", inputs, name + "_square")
            node("Flatten", [name + "_square"], raw)
        if raw != result:
            node("Relu", [raw], result)
    height, width, depth = net.shape
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
    graph = helper.make_graph(nodes, net.name, [value(name_in, [depth, height, width])],
                              [value(name_out, [len(net.layers[-1]["b"])])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="shaped.py")
    onnx.checker.check_model(model)
    return model


def photos(net, count=6):
    """Smooth coloured noise: something of every size in it."""
    dice = np.random.default_rng(1)
    height, width, _ = net.shape
    for _ in range(count):
        layers = [Image.fromarray(dice.integers(0, 256, (side, side, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
                  for side in (3, 9, 31)]
        yield Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.3)


# --- TFLite

op, kinds = schema.BuiltinOperator, schema.BuiltinOptions
# The version of each operator that takes int8.
INT8_SINCE = {op.CONV_2D: 3, op.FULLY_CONNECTED: 4, op.ADD: 2, op.MUL: 2, op.MAX_POOL_2D: 2, op.MEAN: 2}


class Flat:
    """A TFLite model under construction; with ranges an int8 one."""

    def __init__(self, ranges=None):
        self.ranges, self.tensors, self.operators, self.codes = ranges, [], [], []
        self.buffers = [schema.BufferT()]

    def tensor(self, name, shape, data=None, scale=None, zero=0, kind=None):
        one = schema.TensorT()
        one.name, one.shape = name.encode(), list(shape)
        one.type = kind if kind is not None else schema.TensorType.FLOAT32 if scale is None else schema.TensorType.INT8
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            one.buffer = len(self.buffers) - 1
        if scale is not None:
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            one.quantization.zeroPoint = np.full(len(one.quantization.scale), zero, np.int64)
        self.tensors.append(one)
        return len(self.tensors) - 1

    def activation(self, name, shape):
        if self.ranges is None:
            return self.tensor(name, shape), None
        low, high = self.ranges[name]
        scale = (float(high) - float(low)) / 255
        zero = int(round(-128 - float(low) / scale))
        return self.tensor(name, shape, scale=scale, zero=zero), scale

    def weights(self, name, values, bias, scale_in):
        """Weights and bias as tensors; in int8 a scale for each output channel."""
        if self.ranges is None:
            return [self.tensor(name + "_w", values.shape, values), self.tensor(name + "_b", bias.shape, bias)]
        steps = np.abs(values).reshape(len(values), -1).max(axis=1) / 127
        small = np.rint(values / steps.reshape((-1,) + (1,) * (values.ndim - 1))).astype(np.int8)
        both = steps * scale_in
        return [self.tensor(name + "_w", values.shape, small, scale=steps),
                self.tensor(name + "_b", bias.shape, np.rint(bias / both).astype(np.int32), scale=both, kind=schema.TensorType.INT32)]

    def each(self, name, values):
        """A number for each channel, as a tensor to multiply with or to add."""
        if self.ranges is None:
            return self.tensor(name, values.shape, values)
        scale = float(np.abs(values).max()) / 127
        return self.tensor(name, values.shape, np.rint(values / scale).astype(np.int8), scale=scale)

    def operator(self, code, inputs, output, kind=None, options=None):
        if code not in self.codes:
            self.codes.append(code)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = self.codes.index(code), inputs, [output]
        if options is not None:
            one.builtinOptionsType, one.builtinOptions = kind, options
        self.operators.append(one)

    def bytes(self, name, first, last):
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators, graph.inputs, graph.outputs = name.encode(), self.tensors, self.operators, [first], [last]
        model = schema.ModelT()
        model.version, model.description, model.subgraphs, model.buffers = 3, b"shaped.py", [graph], self.buffers
        model.operatorCodes = []
        for code in self.codes:
            one = schema.OperatorCodeT()
            one.builtinCode, one.deprecatedBuiltinCode = code, min(code, 127)
            one.version = 1 if self.ranges is None else INT8_SINCE.get(code, 1)
            model.operatorCodes.append(one)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def options(cls, **fields):
    made = cls()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def to_tflite(net, ranges=None):
    flat = Flat(ranges)
    relu = lambda on: schema.ActivationFunctionType.RELU if on else schema.ActivationFunctionType.NONE
    height, width, depth = net.shape
    first, scale = flat.activation("in", (1, height, width, depth))
    known, squares = {"in": (first, (1, height, width, depth), scale)}, {}
    for layer in net.layers:
        kind, name, act = layer["kind"], layer["name"], relu(layer.get("relu"))
        source, shape, scale = known[layer["in"][0]]

        def result(shape, name=name):
            known[name] = (*flat.activation(name, shape)[:1], shape, None)
            index = known[name][0]
            known[name] = (index, shape, None if ranges is None else float(flat.tensors[index].quantization.scale[0]))
            return index

        if kind == "scale":
            if ranges is not None:
                # The same bytes with another scale and zero point.
                quantization = flat.tensors[first].quantization
                quantization.scale *= np.float32(layer["factor"])
                quantization.zeroPoint -= np.rint(layer["addend"] / quantization.scale).astype(np.int64)
                known[name] = (*known["in"][:2], float(quantization.scale[0]))
                continue
            middle, made = flat.tensor(name + "_scaled", shape), result(shape)
            flat.operator(op.MUL, [source, flat.tensor(name + "_m", (1,), np.array([layer["factor"]], np.float32))], middle,
                          kinds.MulOptions, options(schema.MulOptionsT))
            flat.operator(op.ADD, [middle, flat.tensor(name + "_a", (1,), np.array([layer["addend"]], np.float32))], made,
                          kinds.AddOptions, options(schema.AddOptionsT))
        elif kind == "conv":
            out = tuple(-(-side // layer["stride"]) for side in shape[1:3])
            made = result((1, *out, len(layer["b"])))
            flat.operator(op.CONV_2D, [source, *flat.weights(name, layer["w"], layer["b"], scale)], made, kinds.Conv2DOptions,
                          options(schema.Conv2DOptionsT, padding=schema.Padding.SAME, strideH=layer["stride"], strideW=layer["stride"],
                                  dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=act))
        elif kind == "dense":
            weights, square = layer["w"][:, 0, 0], squares.get(layer["in"][0])
            if square:
                # What was flattened has the channel last here, and first in ONNX.
                weights = weights.reshape(-1, square[2], *square[:2]).transpose(0, 2, 3, 1).reshape(weights.shape)
            made = result((1, len(layer["b"])))
            flat.operator(op.FULLY_CONNECTED, [source, *flat.weights(name, weights, layer["b"], scale)], made,
                          kinds.FullyConnectedOptions, options(schema.FullyConnectedOptionsT, fusedActivationFunction=act))
        elif kind == "norm":
            scaled = result(shape, name + "_scaled")
            flat.operator(op.MUL, [source, flat.each(name + "_m", layer["factor"])], scaled, kinds.MulOptions, options(schema.MulOptionsT))
            made = result(shape)
            flat.operator(op.ADD, [scaled, flat.each(name + "_a", layer["b"])], made, kinds.AddOptions,
                          options(schema.AddOptionsT, fusedActivationFunction=relu(True)))
        elif kind == "pool":
            out = tuple(-(-side // layer["stride"]) for side in shape[1:3])
            if ranges is not None:
                # A maximum has the scale of what it is taken of.
                ranges[name] = ranges[layer["in"][0]]
            made = result((1, *out, shape[3]))
            flat.operator(op.MAX_POOL_2D, [source], made, kinds.Pool2DOptions,
                          options(schema.Pool2DOptionsT, padding=schema.Padding.SAME, strideH=layer["stride"], strideW=layer["stride"],
                                  filterHeight=layer["size"], filterWidth=layer["size"]))
        elif kind == "sum":
            made = result(shape)
            flat.operator(op.ADD, [known[one][0] for one in layer["in"]], made, kinds.AddOptions, options(schema.AddOptionsT))
        elif kind == "flat":
            to, squares[name] = (1, shape[1] * shape[2] * shape[3]), shape[1:]
            if ranges is not None:
                ranges[name] = ranges[layer["in"][0]]
            made = result(to)
            where = flat.tensor(name + "_shape", (2,), np.array(to, np.int32), kind=schema.TensorType.INT32)
            flat.operator(op.RESHAPE, [source, where], made, kinds.ReshapeOptions, options(schema.ReshapeOptionsT, newShape=list(to)))
        elif kind == "mean":
            made = result((1, shape[3]))
            axes = flat.tensor(name + "_axes", (2,), np.array([1, 2], np.int32), kind=schema.TensorType.INT32)
            flat.operator(op.MEAN, [source, axes], made, kinds.ReducerOptions, options(schema.ReducerOptionsT, keepDims=False))
    return flat.bytes(net.name, first, known[net.layers[-1]["name"]][0])


def ranges_of(net, model, entry):
    """The range of every layer's result, as the int8 ONNX file has it, for the TFLite one."""
    graph = quantize.Graph(model)
    values = [pictures.prepare(photo, entry["input"]) for photo in photos(net)]
    found, _ = quantize.observe(graph, graph.model.graph.node, values, entry)
    names = {"in": entry["input"]["name"], net.layers[-1]["name"]: entry["output"]["values"]}
    ranges = {}
    for layer in net.layers:
        ranges[layer["name"]] = found[names.get(layer["name"], layer["name"])]
        if layer["kind"] == "norm":
            low, high = ranges[layer["in"][0]]
            ranges[layer["name"] + "_scaled"] = (low * layer["factor"].max(), high * layer["factor"].max())
    low, high = found[names["in"]]
    ranges["in"] = (low, high)
    return ranges


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else SEED
    folder.mkdir(parents=True, exist_ok=True)
    known = pictures.catalog()["models"]
    for make, entry in ((ferplus, known["ferplus-zoo"]), (resnet, known["resnet50v2-zoo"])):
        net = make(seed)
        model = to_onnx(net, entry)
        files = {".onnx": model.SerializeToString(deterministic=True), ".tflite": to_tflite(net),
                 "_int8.tflite": to_tflite(net, ranges_of(net, model, entry))}
        files["_int8.onnx"] = quantize.quantise(model, entry, list(photos(net))).SerializeToString(deterministic=True)
        for ending, data in files.items():
            file = folder / (net.name + ending)
            file.write_bytes(data)
            print(f"{file}: {len(data)} bytes, sha256 {pictures.digest(file)}")


if __name__ == "__main__":
    main()
