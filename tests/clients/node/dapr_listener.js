// The listener of the article "Running Dapr on Azure IoT Edge", on Dapr's own SDK: the method "main" answers a
// greeting. It takes its port from APP_PORT and the gateway's from DAPR_HTTP_PORT, as the SDK does by itself.
const { DaprServer, HttpMethod } = require("@dapr/dapr");

async function start() {
  const server = new DaprServer();
  await server.invoker.listen("main", async () => ({ message: "Hello World" }), { method: HttpMethod.GET });
  await server.invoker.listen(
    "echo",
    async ({ body, query, headers }) => ({
      body: JSON.parse(body),
      query,
      type: headers["content-type"],
      trace: headers.traceparent,
    }),
    { method: HttpMethod.POST },
  );
  await server.start();
  console.log("ready");
}

start().catch((error) => {
  console.error(error);
  process.exit(1);
});
