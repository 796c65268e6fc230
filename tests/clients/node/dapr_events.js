// An app on Dapr's own SDK that publishes, subscribes and keeps state. It takes its port from APP_PORT and the
// gateway's from DAPR_HTTP_PORT. Each step is a line of JSON.
const { DaprServer, DaprClient, DaprPubSubStatusEnum } = require("@dapr/dapr");

const say = (step, more) => console.log(JSON.stringify({ step, ...more }));

async function start() {
  const server = new DaprServer();
  let failures = 2;
  await server.pubsub.subscribe("pubsub", "orders", async (data, headers) => say(`order ${data.n}`, { data }));
  await server.pubsub.subscribe("pubsub", "texts", async (data) => say("text", { data }));
  await server.pubsub.subscribe("pubsub", "weak", async (data) => {
    // The SDK takes an error for success; only this asks for another attempt.
    if (failures-- > 0) return DaprPubSubStatusEnum.RETRY;
    say("weak", { data });
  });
  await server.pubsub.subscribeWithOptions("pubsub", "bad", {
    callback: async () => DaprPubSubStatusEnum.RETRY,
    deadLetterTopic: "poison",
  });
  await server.pubsub.subscribe("pubsub", "poison", async (data) => say("poison", { data }));
  await server.pubsub.subscribe("pubsub", "probe", async () => say("probe", {}));
  await server.start();
  console.log("ready");

  const client = new DaprClient();
  process.stdin.on("data", async (chunk) => {
    for (const command of chunk.toString().trim().split("\n")) {
      try {
        if (command === "probe") await client.pubsub.publish("pubsub", "probe", "now");
        if (command === "publish") await publish(client);
        if (command === "state") await state(client);
        if (command === "quit") process.exit(0);
      } catch (error) {
        say("failed", { command, error: String(error) });
      }
    }
  });
}

async function publish(client) {
  say("published", {
    object: await client.pubsub.publish("pubsub", "orders", { n: 1 }),
    text: await client.pubsub.publish("pubsub", "texts", "hello"),
    weak: await client.pubsub.publish("pubsub", "weak", { w: 1 }),
    bad: await client.pubsub.publish("pubsub", "bad", { b: 1 }),
  });
  const event = { specversion: "1.0", id: "7", type: "order", source: "till", data: { n: 2 } };
  await client.pubsub.publish("pubsub", "orders", event, { contentType: "application/cloudevents+json" });
  const bulk = await client.pubsub.publishBulk("pubsub", "orders", [{ n: 3 }, { n: 4 }]);
  say("bulk", { failed: bulk.failedMessages.length });
  const forbidden = await client.pubsub.publish("pubsub", "emotion", { n: 1 });
  say("forbidden", { error: String(forbidden.error) });
}

async function state(client) {
  const store = "statestore";
  say("saved", await client.state.save(store, [{ key: "a", value: { n: 1 } }, { key: "b", value: "text" }]));
  say("got", { a: await client.state.get(store, "a"), b: await client.state.get(store, "b") });
  say("missing", { value: await client.state.get(store, "nothing") });
  say("bulk got", { items: await client.state.getBulk(store, ["a", "nothing"]) });
  const wrong = await client.state.save(store, [{ key: "a", value: 2, etag: "999999" }]);
  say("wrong etag", { error: String(wrong.error) });
  await client.state.transaction(store, [
    { operation: "upsert", request: { key: "c", value: 3 } },
    { operation: "delete", request: { key: "b" } },
  ]);
  say("transaction", { b: await client.state.get(store, "b"), c: await client.state.get(store, "c") });
  say("deleted", await client.state.delete(store, "a"));
  say("gone", { a: await client.state.get(store, "a") });
}

start().catch((error) => {
  console.error(error);
  process.exit(1);
});
