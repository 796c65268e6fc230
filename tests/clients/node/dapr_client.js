// Calls an app through the gateway with Dapr's own client, and tells as JSON, one line a step, what came of it.
// usage: node dapr_client.js APP-ID
const { DaprClient, HttpMethod } = require("@dapr/dapr");

const app = process.argv[2];

async function tell(step, action) {
  let outcome;
  try {
    outcome = { value: (await action()) ?? null };
  } catch (error) {
    outcome = { error: error.message };
  }
  console.log(JSON.stringify({ step, ...outcome }));
}

async function run() {
  const client = new DaprClient();
  await tell("get", () => client.invoker.invoke(app, "main", HttpMethod.GET));
  await tell("post", () => client.invoker.invoke(app, "echo?x=1", HttpMethod.POST, { number: 7 }));
  await tell("wrong verb", () => client.invoker.invoke(app, "main", HttpMethod.POST, {}));
  await tell("unknown app", () => client.invoker.invoke("no-such-app", "main", HttpMethod.GET));
  await tell("set", () => client.metadata.set("colour", "blue"));
  await tell("metadata", () => client.metadata.get());
  await tell("healthy", () => client.health.isHealthy());
  await tell("shutdown", () => client.sidecar.shutdown());
  await client.stop();
}

run();
