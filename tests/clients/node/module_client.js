// A module that uses Microsoft's Node SDK, driven by a test through its standard streams.
//
// Usage: node module_client.js       (with the environment that IoT Edge gives a module)
//
// It reads commands from standard input, one a line, and prints what happens, one JSON object a line:
//
//     send <output> <JSON>    sends telemetry             -> {"event": "sent"}
//     twin                    fetches the twin            -> {"event": "twin", "twin": {...}}
//     report <JSON>           reports properties          -> {"event": "reported"} or {"event": "error", ...}
//     invoke <module> <name>  calls another module        -> {"event": "invoked", "status": ..., "payload": ...}
//     quit                    disconnects                 -> {"event": "bye"}
//
// And without being asked: {"event": "connected"}, "input", "desired", "method".
// The direct method `ping` is answered with status 200 and {"echo": <payload>}.
"use strict";

const readline = require("node:readline");
const { ModuleClient, Message } = require("azure-iot-device");
const { Mqtt } = require("azure-iot-device-mqtt");

function tell(event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
}

async function main() {
  const client = await ModuleClient.fromEnvironment(Mqtt);
  client.on("error", (error) => tell("client_error", { error: String(error) }));
  client.on("disconnect", () => tell("state", { connected: false }));
  await client.open();
  client.on("inputMessage", (input, message) => {
    const properties = {};
    for (let i = 0; i < message.properties.count(); i += 1) {
      const item = message.properties.getItem(i);
      properties[item.key] = item.value;
    }
    client.complete(message, () =>
      tell("input", { input, body: message.data.toString(), properties, content_type: message.contentType }),
    );
  });
  client.onMethod("ping", (request, response) => {
    tell("method", { name: request.methodName, payload: request.payload });
    response.send(200, { echo: request.payload }, (error) => {
      if (error) tell("error", { command: "method", error: String(error) });
    });
  });
  const twin = await client.getTwin();
  // A GET makes the SDK tell all desired properties again; that is no patch.
  let asking = false;
  twin.on("properties.desired", (patch) => {
    if (!asking) tell("desired", { patch });
  });
  tell("connected", {});

  const lines = readline.createInterface({ input: process.stdin });
  for await (const line of lines) {
    const [command, ...words] = line.trim().split(" ");
    const rest = words.join(" ");
    try {
      if (command === "send") {
        const message = new Message(words.slice(1).join(" "));
        message.contentType = "application/json";
        message.contentEncoding = "utf-8";
        message.messageId = "node-1";
        message.properties.add("two words", "a+b/c d");
        await client.sendOutputEvent(words[0], message);
        tell("sent", {});
      } else if (command === "twin") {
        asking = true;
        await twin.get();
        asking = false;
        tell("twin", { twin: { desired: twin.properties.desired, reported: twin.properties.reported } });
      } else if (command === "report") {
        await new Promise((resolve, reject) =>
          twin.properties.reported.update(JSON.parse(rest), (error) => (error ? reject(error) : resolve())),
        );
        tell("reported", {});
      } else if (command === "invoke") {
        const result = await client.invokeMethod(process.env.IOTEDGE_DEVICEID, words[0], {
          methodName: words[1],
          payload: { from: "node" },
          responseTimeoutInSeconds: 10,
          connectTimeoutInSeconds: 5,
        });
        tell("invoked", { status: result.status, payload: result.payload });
      } else if (command === "quit") {
        break;
      }
    } catch (error) {
      tell("error", { command, error: String(error) });
    }
  }
  await client.close();
  tell("bye", {});
  process.exit(0);
}

main().catch((error) => {
  tell("failed", { error: String(error && error.stack) });
  process.exit(1);
});
