"""Runs a model in Python as its users do, for `shunt bench inference`; speaks as `shunt bench-model` does.

Usage: peer.py onnxruntime|litert FILE
"""
import json
import sys
import time


def resident_mb():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def onnxruntime(file):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}
    inputs = {
        port.name: numpy.zeros([length if isinstance(length, int) else 1 for length in port.shape], kinds[port.type])
        for port in session.get_inputs()
    }
    return f"Python onnxruntime {onnxruntime.__version__}", lambda: session.run(None, inputs)


def litert(file):
    import ai_edge_litert
    import numpy
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=file, num_threads=1)
    interpreter.allocate_tensors()
    inputs = [(port["index"], numpy.zeros(port["shape"], port["dtype"])) for port in interpreter.get_input_details()]
    outputs = [port["index"] for port in interpreter.get_output_details()]

    def run():
        for index, values in inputs:
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    from importlib.metadata import version

    return f"Python ai-edge-litert {version('ai-edge-litert')}", run


kind, file = sys.argv[1:]
before, started = resident_mb(), time.perf_counter()
version, run = {"onnxruntime": onnxruntime, "litert": litert}[kind](file)
load_ms = (time.perf_counter() - started) * 1e3
for _ in range(5):
    run()
ready = {"version": version, "load_ms": load_ms, "memory_mb": resident_mb() - before, "golden": None}
# Standard output is for answers only, whatever a library prints.
answers, sys.stdout = sys.stdout, sys.stderr
print(json.dumps(ready), file=answers, flush=True)
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e3)
    print(json.dumps(times), file=answers, flush=True)
