"""A module in Python that needs nothing of ours: it hears emotions and publishes texts through the gateway.

It listens on PORT, as any app of Dapr does. GATEWAY is where the gateway is: http://gateway:3500 on a device.
"""

import json
import os
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GATEWAY = os.environ.get("GATEWAY", "http://gateway:3500")
PORT = int(os.environ.get("PORT", "8080"))
# A proxy of the environment is none of the gateway's.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def publish(topic, data):
    url = f"{GATEWAY}/v1.0/publish/pubsub/{topic}"
    request = urllib.request.Request(url, json.dumps(data).encode(), {"content-type": "application/json"})
    OPENER.open(request, timeout=10).close()


class App(BaseHTTPRequestHandler):
    def do_GET(self):
        # The gateway asks what the app wants to be told of; everything else is a call by app id.
        subscriptions = [{"pubsubname": "pubsub", "topic": "emotion", "route": "/emotion"}]
        self.answer(subscriptions if self.path == "/dapr/subscribe" else {"hello": "World"})

    def do_POST(self):
        # A CloudEvent. What is answered otherwise than with success is brought again.
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        publish("text/mood", {"text": f"Somebody shows {event['data']['emotion']}."})
        self.answer({"status": "SUCCESS"})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", PORT), App).serve_forever()
