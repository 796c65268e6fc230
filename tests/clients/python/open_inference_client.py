"""Asks the module inference with NVIDIA's own client of the Open Inference Protocol, over HTTP and gRPC, and tells as
JSON, one line a step, what came of it.

usage: open_inference_client.py HOST:PORT MODEL INPUT OUTPUT LENGTH...

The model has one input of FP32 with these lengths. Its values are (7 * place) mod 251.
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

address, model, input_name, output_name = sys.argv[1:5]
shape = [int(length) for length in sys.argv[5:]]
pixels = ((np.arange(np.prod(shape)) * 7) % 251).astype(np.float32).reshape(shape)

broken = pixels.copy()
broken.flat[5] = np.nan


def tell(step, action):
    try:
        outcome = {"value": action()}
    except InferenceServerException as error:
        outcome = {"error": error.message(), "status": error.status()}
    print(json.dumps({"step": step, **outcome}), flush=True)


def bits(result, name=output_name):
    """An output as it is in memory, with what the server said of it."""
    values = result.as_numpy(name)
    return {"bytes": values.tobytes().hex(), "type": str(values.dtype), "shape": list(values.shape)}


def texts(result, name=output_name):
    values = result.as_numpy(name)
    # Out of JSON the client makes texts, out of the binary form bytes.
    plain = [text.decode() if isinstance(text, bytes) else text for text in values.flatten()]
    return {"texts": plain, "shape": list(values.shape)}


def http_input(values=pixels, name=input_name, datatype="FP32", binary=True):
    tensor = http.InferInput(name, list(values.shape), datatype)
    return tensor.set_data_from_numpy(values, binary_data=binary)


def http_output(binary=True, name=output_name, classes=0):
    return http.InferRequestedOutput(name, binary_data=binary, class_count=classes)


def grpc_input(values=pixels, name=input_name, datatype="FP32"):
    return grpc.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)


def grpc_output(name=output_name, classes=0):
    return grpc.InferRequestedOutput(name, class_count=classes)


with http.InferenceServerClient(address, concurrency=4) as client:

    def infer(inputs=None, **more):
        return client.infer(model, inputs or [http_input()], **more)

    tell("http live", client.is_server_live)
    tell("http ready", client.is_server_ready)
    tell("http model ready", lambda: client.is_model_ready(model))
    tell("http version ready", lambda: client.is_model_ready(model, "1"))
    tell("http other version ready", lambda: client.is_model_ready(model, "2"))
    tell("http server", client.get_server_metadata)
    tell("http model", lambda: client.get_model_metadata(model, "1"))
    tell("http config", lambda: client.get_model_config(model))
    tell("http index", client.get_model_repository_index)
    tell("http binary", lambda: bits(infer()))
    tell("http json", lambda: bits(infer([http_input(binary=False)], outputs=[http_output(binary=False)])))
    tell("http json to binary", lambda: bits(infer([http_input(binary=False)])))
    tell("http binary to json", lambda: bits(infer(outputs=[http_output(binary=False)], request_id="seven")))
    tell("http answer", lambda: infer(outputs=[http_output()], request_id="seven").get_response())
    tell("http version", lambda: bits(infer(model_version="1")))
    for algorithm in ("gzip", "deflate"):
        packed = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        tell(f"http {algorithm}", lambda: bits(infer(**packed)))
        tell(f"http {algorithm} json", lambda: bits(infer([http_input(binary=False)], **packed)))
    tell("http classes", lambda: texts(infer(outputs=[http_output(classes=3)])))
    tell("http classes json", lambda: texts(infer(outputs=[http_output(binary=False, classes=3)])))
    requests = [client.async_infer(model, [http_input()], request_id=str(number)) for number in range(8)]
    results = [request.get_result() for request in requests]
    tell("http async", lambda: [result.get_response()["id"] for result in results])
    tell("http async values", lambda: [bits(result)["bytes"] for result in results])
    tell("http statistics", lambda: client.get_inference_statistics(model))
    tell("http all statistics", lambda: [one["name"] for one in client.get_inference_statistics()["model_stats"]])

    tell("http unknown model", lambda: client.infer("no-such-model", [http_input()]))
    tell("http unknown version", lambda: infer(model_version="7"))
    tell("http unknown metadata", lambda: client.get_model_metadata("no such model"))
    tell("http unknown input", lambda: infer([http_input(name="x")]))
    tell("http unknown output", lambda: infer(outputs=[http_output(name="x")]))
    tell("http wrong shape", lambda: infer([http_input(pixels.reshape(-1))]))
    tell("http wrong type", lambda: infer([http_input(pixels.astype(np.int32), datatype="INT32")]))
    tell("http texts", lambda: infer([http_input(pixels.astype(np.bytes_), datatype="BYTES")]))
    tell("http nan", lambda: infer([http_input(broken, binary=False)]))
    tell("http sequence", lambda: infer(sequence_id=5, sequence_start=True))
    tell("http load", lambda: client.load_model(model))
    tell("http unload", lambda: client.unload_model(model))
    tell("http shared memory", client.get_system_shared_memory_status)
    tell("http register", lambda: client.register_system_shared_memory("region", "/key", 16))
    tell("http cuda", client.get_cuda_shared_memory_status)
    tell("http trace", lambda: client.get_trace_settings(model))
    tell("http log", client.get_log_settings)

with grpc.InferenceServerClient(address) as client:

    def infer(inputs=None, **more):
        return client.infer(model, inputs or [grpc_input()], **more)

    def message(method, *arguments):
        return method(*arguments, as_json=True)

    tell("grpc live", client.is_server_live)
    tell("grpc ready", client.is_server_ready)
    tell("grpc model ready", lambda: client.is_model_ready(model, "1"))
    tell("grpc server", lambda: message(client.get_server_metadata))
    tell("grpc model", lambda: message(client.get_model_metadata, model))
    tell("grpc config", lambda: message(client.get_model_config, model))
    tell("grpc index", lambda: message(client.get_model_repository_index))
    tell("grpc raw", lambda: bits(infer()))
    tell("grpc output", lambda: bits(infer(outputs=[grpc_output()])))
    tell("grpc answer", lambda: infer(request_id="seven").get_response(as_json=True)["id"])
    tell("grpc classes", lambda: texts(infer(outputs=[grpc_output(classes=3)])))

    # The client itself sends raw tensors only.
    typed = grpc.service_pb2.ModelInferRequest(model_name=model)
    tensor = typed.inputs.add(name=input_name, datatype="FP32", shape=shape)
    tensor.contents.fp32_contents.extend(pixels.flatten().tolist())
    tell("grpc typed", lambda: bits(grpc.InferResult(client._client_stub.ModelInfer(typed))))

    answers = queue.Queue()
    for number in range(8):
        callback = lambda result, error: answers.put((result, error))  # noqa: E731
        client.async_infer(model, [grpc_input()], callback, request_id=str(number))
    results = [answers.get(timeout=30) for _ in range(8)]
    tell("grpc async", lambda: sorted(result.get_response().id for result, _ in results))
    tell("grpc async values", lambda: [bits(result)["bytes"] for result, _ in results])

    client.start_stream(callback)
    for name in (model, "no-such-model", model):
        client.async_stream_infer(name, [grpc_input()], request_id=name, enable_empty_final_response=True)
    results = [answers.get(timeout=30) for _ in range(3)]
    client.stop_stream()
    tell("grpc stream", lambda: [bits(result)["bytes"] for result, error in results if error is None])
    tell("grpc stream errors", lambda: [error.message() for _, error in results if error is not None])
    final = "triton_final_response"
    tell("grpc stream final", lambda: results[0][0].get_response().parameters[final].bool_param)
    tell("grpc statistics", lambda: message(client.get_inference_statistics, model))

    tell("grpc unknown model", lambda: client.infer("no-such-model", [grpc_input()]))
    tell("grpc unknown version", lambda: infer(model_version="7"))
    tell("grpc unknown input", lambda: infer([grpc_input(name="x")]))
    tell("grpc unknown output", lambda: infer(outputs=[grpc_output(name="x")]))
    tell("grpc wrong shape", lambda: infer([grpc_input(pixels.reshape(-1))]))
    tell("grpc wrong type", lambda: infer([grpc_input(pixels.astype(np.int32), datatype="INT32")]))
    tell("grpc texts", lambda: infer([grpc_input(pixels.astype(np.bytes_), datatype="BYTES")]))
    # 20 MiB: more than a body may have by default.
    tell("grpc large", lambda: infer([grpc_input(np.zeros([5 * 1024 * 1024], dtype=np.float32))]))
    tell("grpc load", lambda: client.load_model(model))
    tell("grpc unload", lambda: client.unload_model(model))
    tell("grpc shared memory", client.get_system_shared_memory_status)
    tell("grpc cuda", client.get_cuda_shared_memory_status)
    tell("grpc trace", client.get_trace_settings)
    tell("grpc log", client.get_log_settings)
