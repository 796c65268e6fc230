//! Clients that no one here wrote: Microsoft's Python and Node SDKs as modules, the crate `azure_iot_sdk` as a leaf
//! device. They have the port 8883 built in, so each stand-in here listens on a loopback address of its own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rumqttc::mqttbytes::{
    QoS,
    v4::{Packet, Publish},
};
use serde_json::{Value, json};
use shunt_sim::{Fault, SimOptions};
use shunt_testkit::{eventually, repo_root};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::support::{DEVICE, Probe, Stand, manifest, start_with};

/// Clients take seconds to start on a busy machine, and Python comes back after a cut line only when its own clock says so.
const PATIENCE: Duration = Duration::from_mins(1);

/// A client's process.
struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(
        program: &Path,
        arguments: &[PathBuf],
        environment: &BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, input, output })
    }

    async fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{command}\n").as_bytes()).await?;
        self.input.flush().await?;
        Ok(())
    }

    /// The next event of this kind; changes of state in between are passed over.
    async fn expect(&mut self, event: &str) -> anyhow::Result<Value> {
        timeout(PATIENCE, async {
            loop {
                let line = self
                    .output
                    .next_line()
                    .await?
                    .with_context(|| format!("the client ended before {event:?}"))?;
                let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
                match value["event"].as_str() {
                    Some(kind) if kind == event => return Ok(value),
                    Some("state" | "client_error") => {}
                    _ => bail!("{line} came instead of {event:?}"),
                }
            }
        })
        .await
        .with_context(|| format!("no {event:?} came"))?
    }

    async fn ask(&mut self, command: &str, event: &str) -> anyhow::Result<Value> {
        self.tell(command).await?;
        self.expect(event).await
    }

    async fn quit(mut self) -> anyhow::Result<()> {
        self.ask("quit", "bye").await?;
        let status = timeout(PATIENCE, self.child.wait()).await??;
        anyhow::ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// A stand-in on a loopback address of its own, with the ports that clients have built in. 443 needs a right that not
/// everybody has; without it there is no call from module to module, and false is given.
async fn on_the_built_in_ports(keep_sessions: bool) -> anyhow::Result<(Stand, bool)> {
    loop {
        let random = uuid::Uuid::new_v4();
        let [a, b, c, ..] = *random.as_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, a, b, c.clamp(1, 254)));
        let free = |port| TcpListener::bind(SocketAddr::new(address, port));
        if free(8883).await.is_err() {
            continue;
        }
        let https = free(443).await.is_ok();
        let options = SimOptions {
            gateway_host: address.to_string(),
            mqtt: SocketAddr::new(address, 8883),
            https: SocketAddr::new(address, if https { 443 } else { 0 }),
            keep_sessions,
            ..SimOptions::default()
        };
        if !https {
            println!("Port 443 cannot be used here: the call from module to module is not tried.");
        }
        return Ok((start_with(options, &[]).await?, https));
    }
}

/// Is it installed? Where it is not, the test is passed over, but never in CI.
fn installed(what: &str, path: &Path) -> bool {
    if path.exists() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{what} is not installed: run scripts/setup test");
    println!("{what} is not installed ({}): passed over. Run scripts/setup test.", path.display());
    false
}

/// Everything that a module does, once.
async fn a_module_on_an_sdk_lives(program: &Path, script: PathBuf, name: &str) -> anyhow::Result<()> {
    // The Python SDK never subscribes again: it trusts in the session.
    let (stand, https) = on_the_built_in_ports(name == "python").await?;
    let routes = json!({
        "up": "FROM /messages/modules/sdk/outputs/up INTO $upstream",
        "in": r#"FROM /messages/modules/probe/* INTO BrokeredEndpoint("/modules/sdk/inputs/numbers")"#,
    });
    stand.deploy(&manifest(&["sdk", "probe"], &routes))?;
    stand.patch_desired("sdk", &json!({"start": true}))?;
    let mut client = Client::start(program, &[script], &stand.module_environment("sdk"))?;
    client.expect("connected").await?;
    // Node tells the desired properties once on registering, Python does not.
    if name == "node" {
        assert_eq!(client.expect("desired").await?["patch"]["start"], true);
    }

    // Telemetry.
    client.ask(r#"send up {"n":1}"#, "sent").await?;
    let records = stand.messages_from(1, Duration::ZERO).await;
    assert_eq!(records.len(), 1, "the SDK was told that it is sent");
    assert_eq!((records[0].module.as_deref(), records[0].output.as_deref()), (Some("sdk"), Some("up")));
    assert_eq!(records[0].body, json!({"n": 1}));
    assert_eq!(records[0].properties["two words"], "a+b/c d");
    assert_eq!(records[0].system["messageId"], format!("{name}-1"));
    assert_eq!(records[0].system["contentEncoding"], "utf-8");

    // An input.
    let mut probe = Probe::connect(&stand, "probe").await?;
    probe.telemetry("o", "&kind=a%2Bb%20c&%24.ct=application%2Fjson", r#"{"x":7}"#).await?;
    let input = client.expect("input").await?;
    assert_eq!((&input["input"], &input["body"]), (&json!("numbers"), &json!(r#"{"x":7}"#)));
    assert_eq!(
        (&input["properties"]["kind"], &input["content_type"]),
        (&json!("a+b c"), &json!("application/json"))
    );
    eventually(PATIENCE, || async { stand.waiting_for("sdk") == 0 }).await;

    // The twin.
    let twin = client.ask("twin", "twin").await?["twin"].clone();
    assert_eq!((&twin["desired"]["start"], &twin["desired"]["$version"]), (&json!(true), &json!(2)));
    client.ask(r#"report {"a":{"b":1}}"#, "reported").await?;
    assert_eq!(stand.twin("sdk").unwrap()["properties"]["reported"]["a"], json!({"b": 1}));
    // Refused with 400; the Node SDK does not look at the status.
    client.ask(r#"report {"a b":1}"#, if name == "node" { "reported" } else { "error" }).await?;
    assert_eq!(stand.twin("sdk").unwrap()["properties"]["reported"], json!({"a": {"b": 1}, "$version": 2}));
    stand.patch_desired("sdk", &json!({"fps": 5}))?;
    assert_eq!(client.expect("desired").await?["patch"], json!({"fps": 5, "$version": 3}));

    // Direct methods, one in each direction.
    let (result, called) =
        tokio::join!(stand.invoke("sdk", "ping", json!({"x": [1, 2]}), PATIENCE), client.expect("method"));
    assert_eq!(called?["payload"], json!({"x": [1, 2]}));
    let result = result?;
    assert_eq!((result.status, result.payload), (200, json!({"echo": {"x": [1, 2]}})));
    if https {
        probe.subscribe("$iothub/methods/POST/#", QoS::AtMostOnce).await?;
        let serve = async {
            let call = probe.receive_publish().await?;
            let (method, rid) =
                call.topic.strip_prefix("$iothub/methods/POST/").unwrap().split_once('/').unwrap();
            assert_eq!(
                (method, serde_json::from_slice::<Value>(&call.payload)?),
                ("pong", json!({"from": name}))
            );
            let answer =
                Publish::new(format!("$iothub/methods/res/418/{rid}"), QoS::AtMostOnce, r#"{"tea":1}"#);
            probe.send(&Packet::Publish(answer)).await
        };
        let (invoked, served) = tokio::join!(client.ask("invoke probe pong", "invoked"), serve);
        served?;
        let invoked = invoked?;
        assert_eq!((&invoked["status"], &invoked["payload"]), (&json!(418), &json!({"tea": 1})));
    }

    // It comes back after a cut line, and subscribes again.
    stand.fault(&Fault::DropConnection { module: Some("sdk".to_owned()) });
    eventually(PATIENCE, || async {
        stand.invoke("sdk", "ping", json!(2), Duration::from_secs(5)).await.is_ok()
    })
    .await;
    client.expect("method").await?;
    client.ask(r#"send up {"n":2}"#, "sent").await?;
    assert_eq!(stand.messages_from(2, Duration::ZERO).await[0].body, json!({"n": 2}));
    client.quit().await
}

#[tokio::test]
async fn a_module_on_the_python_sdk_lives() -> anyhow::Result<()> {
    let python = repo_root().join(".shunt/venv/bin/python");
    let package = repo_root().join(".shunt/venv/lib");
    let there = std::fs::read_dir(&package)
        .into_iter()
        .flatten()
        .flatten()
        .any(|version| version.path().join("site-packages/azure/iot/device").is_dir());
    if !installed("the Python SDK", if there { &python } else { Path::new("azure-iot-device of PyPI") }) {
        return Ok(());
    }
    let script = repo_root().join("tests/clients/python/module_client.py");
    a_module_on_an_sdk_lives(&python, script, "python").await
}

#[tokio::test]
async fn a_module_on_the_node_sdk_lives() -> anyhow::Result<()> {
    let folder = repo_root().join("tests/clients/node");
    if !installed("the Node SDK", &folder.join("node_modules/azure-iot-device")) {
        return Ok(());
    }
    a_module_on_an_sdk_lives(Path::new("node"), folder.join("module_client.js"), "node").await
}

#[tokio::test]
async fn a_leaf_device_on_the_rust_crate_lives() -> anyhow::Result<()> {
    let test = std::env::current_exe()?;
    let program = test.ancestors().nth(2).context("no target folder")?.join("examples/leaf_device");
    if !installed("the example leaf_device (cargo build -p shunt-sim --examples)", &program) {
        return Ok(());
    }
    let (stand, _) = on_the_built_in_ports(false).await?;
    // Leaf devices have no module: that is how routes find them.
    let routes =
        json!({"leafs": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream"});
    stand.deploy(&manifest(&["probe"], &routes))?;
    let environment = BTreeMap::from([
        ("IOTHUB_DEVICE_CONNECTION_STRING".to_owned(), stand.add_device("leaf-1")?),
        ("SSL_CERT_FILE".to_owned(), stand.ca_file().display().to_string()),
    ]);
    let mut client = Client::start(&program, &[], &environment)?;
    client.expect("connected").await?;

    client.ask(r#"send {"n":1}"#, "sent").await?;
    let records = stand.messages_from(1, PATIENCE).await;
    assert_eq!((records[0].device.as_str(), records[0].module.as_deref()), ("leaf-1", None));
    assert_eq!((&records[0].body, records[0].properties["kind"].as_str()), (&json!({"n": 1}), "leaf"));
    assert_eq!(records[0].system["messageId"], "leaf-1");
    // A module's message is not a leaf device's.
    Probe::connect(&stand, "probe").await?.telemetry("o", "", "{}").await?;
    assert_eq!(stand.dropped()["no_route"], 1);

    client.ask(r#"report {"a":1}"#, "reported").await?;
    eventually(PATIENCE, || async {
        stand.device_twin("leaf-1").unwrap()["properties"]["reported"]["a"] == json!(1)
    })
    .await;
    let twin = "/twins/leaf-1";
    let patch = json!({"properties": {"desired": {"fps": 5}}}).to_string();
    let (status, _) = crate::support::control(&stand, "PATCH", twin, Some(&patch)).await?;
    assert_eq!(status, 200);
    assert_eq!(client.expect("desired").await?["patch"], json!({"fps": 5, "$version": 2}));

    let (result, called) = tokio::join!(
        stand.invoke_device("leaf-1", "ping", json!({"x": 1}), PATIENCE),
        client.expect("method")
    );
    assert_eq!(called?["name"], "ping");
    assert_eq!(result?.payload, json!({"echo": {"x": 1}}));

    assert!(stand.send_to_device("leaf-1", Bytes::from_static(b"from the cloud")));
    assert_eq!(client.expect("message").await?["body"], "from the cloud");
    assert_ne!(DEVICE, "leaf-1");
    client.quit().await
}
