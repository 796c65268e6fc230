"""Calls an app through the gateway with Dapr's own client, and tells as JSON, one line a step, what came of it.

usage: dapr_client.py APP-ID
"""

import json
import sys

from dapr.clients import DaprClient


def tell(step, action):
    try:
        outcome = {"value": action()}
    except Exception as error:  # whatever the SDK makes of it
        outcome = {"error": str(error), "code": getattr(error, "_error_code", None)}
    print(json.dumps({"step": step, **outcome}), flush=True)


def text(response):
    return response.text()


app = sys.argv[1]
with DaprClient() as client:
    tell("get", lambda: text(client.invoke_method(app, "main", data="", http_verb="GET")))
    tell(
        "post",
        lambda: text(
            client.invoke_method(
                app,
                "echo",
                data=json.dumps({"number": 7}),
                content_type="application/json",
                http_verb="POST",
                http_querystring=(("x", "1"),),
            )
        ),
    )
    tell("unknown app", lambda: text(client.invoke_method("no-such-app", "main", data="", http_verb="GET")))
