"""A module that uses Microsoft's Python SDK, driven by a test through its standard streams.

Usage: module_client.py            (with the environment that IoT Edge gives a module)

It reads commands from standard input, one a line, and prints what happens, one JSON object a line:

    send <output> <JSON>    sends telemetry             -> {"event": "sent"}
    twin                    fetches the twin            -> {"event": "twin", "twin": {...}}
    report <JSON>           reports properties          -> {"event": "reported"} or {"event": "error", ...}
    invoke <module> <name>  calls another module        -> {"event": "invoked", "status": ..., "payload": ...}
    quit                    disconnects                 -> {"event": "bye"}

And without being asked: {"event": "connected"}, "input", "desired", "method", "disconnected".
Each direct method is answered with status 200 and {"echo": <payload>}.
"""

import json
import sys
import threading

from azure.iot.device import IoTHubModuleClient, Message, MethodResponse

out_lock = threading.Lock()


def tell(event, **fields):
    with out_lock:
        print(json.dumps({"event": event, **fields}), flush=True)


def main():
    # The retry interval is short, so that a test of a cut line need not wait for the default of 10 s.
    client = IoTHubModuleClient.create_from_edge_environment(connection_retry_interval=1)

    def on_input(message):
        tell(
            "input",
            input=message.input_name,
            body=message.data.decode(),
            properties=message.custom_properties,
            content_type=message.content_type,
        )

    def on_method(request):
        tell("method", name=request.name, payload=request.payload)
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 200, {"echo": request.payload})
        )

    client.on_message_received = on_input
    client.on_method_request_received = on_method
    client.on_twin_desired_properties_patch_received = lambda patch: tell("desired", patch=patch)
    client.on_connection_state_change = lambda: tell(
        "state", connected=client.connected
    )
    client.connect()
    tell("connected")
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        try:
            if command == "send":
                output, _, body = rest.partition(" ")
                message = Message(body, content_encoding="utf-8", content_type="application/json")
                message.message_id = "python-1"
                message.custom_properties["two words"] = "a+b/c d"
                client.send_message_to_output(message, output)
                tell("sent")
            elif command == "twin":
                tell("twin", twin=client.get_twin())
            elif command == "report":
                client.patch_twin_reported_properties(json.loads(rest))
                tell("reported")
            elif command == "invoke":
                module, _, name = rest.partition(" ")
                result = client.invoke_method(
                    {"methodName": name, "payload": {"from": "python"}, "responseTimeoutInSeconds": 10,
                     "connectTimeoutInSeconds": 5},
                    device_id(),
                    module,
                )
                tell("invoked", status=result["status"], payload=result["payload"])
            elif command == "quit":
                break
        except Exception as error:  # The test decides what is expected.
            tell("error", command=command, error=repr(error))
    client.shutdown()
    tell("bye")


def device_id():
    import os

    return os.environ["IOTEDGE_DEVICEID"]


if __name__ == "__main__":
    main()
