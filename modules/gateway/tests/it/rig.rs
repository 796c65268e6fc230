//! A gateway with a bus, and apps behind it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use axum::Router;
use gateway::GatewaySettings;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use shunt_bus::{Bus, BusOptions};
use shunt_module::Context;
use shunt_testkit::{eventually, repo_root};
use shunt_wire::events::Presence;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// Every wait ends here.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A gateway in this process.
pub(crate) struct Gateway {
    pub(crate) http: SocketAddr,
    pub(crate) client: Client,
    stop: Option<oneshot::Sender<()>>,
    exit: JoinHandle<u8>,
}

/// A program of Dapr's SDKs or gRPC's.
pub(crate) struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

/// A bus of this test alone, in this process.
pub(crate) fn memory(folder: &Path) -> String {
    format!("memory:{}", folder.display().to_string().replace('/', "-"))
}

/// The environment of a gateway: its data in this folder, and what more is given.
pub(crate) fn environment(folder: &Path, bus: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let folder = folder.display().to_string();
    let own = [
        ("SHUNT_BUS_URL", bus),
        ("SHUNT_HTTP_LISTEN", "127.0.0.1:0"),
        ("SHUNT_ADVERTISE_HOST", "127.0.0.1"),
        ("SHUNT_DATA_DIR", folder.as_str()),
    ];
    own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A client as callers have it.
pub(crate) fn client() -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder().tcp_nodelay(true).no_proxy().timeout(PATIENCE).build().unwrap()
}

/// Serves these pages as an app; gives its address.
pub(crate) async fn app(pages: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, pages).into_future());
    address
}

/// A module on the bus with its HTTP port at this address.
pub(crate) fn module(bus: &str, name: &str, address: SocketAddr) -> Bus {
    let host = Some(address.ip().to_string());
    let presence = Presence { online: true, version: "1".to_owned(), port: Some(address.port()), host };
    Bus::open(BusOptions { presence: Some(presence), ..BusOptions::new(bus, name.parse().unwrap()) }).unwrap()
}

/// Sends this over a connection of its own and gives all that comes back until the other side closes.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    // The other side may answer and close before it has read everything.
    let both = async { tokio::join!(writer.write_all(request), reader.read_to_end(&mut answer)) };
    let _ends = timeout(PATIENCE, both).await.expect("the connection is closed in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Is the client installed? Where it is not, the test is passed over, but never in CI.
pub(crate) fn installed(what: &str, there: bool) -> bool {
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{what} is not installed: run scripts/setup test");
        println!("{what} is not installed: passed over. Run scripts/setup test.");
    }
    there
}

/// Is this Node package installed?
pub(crate) fn node_has(package: &str) -> bool {
    let folder = repo_root().join("tests/clients/node/node_modules");
    installed(&format!("{package} of npm"), folder.join(package).is_dir())
}

/// Is this Python package installed (by the name of its folder)?
pub(crate) fn python_has(package: &str) -> bool {
    let versions = std::fs::read_dir(repo_root().join(".shunt/venv/lib")).into_iter().flatten().flatten();
    let there =
        versions.map(|version| version.path().join("site-packages").join(package)).any(|path| path.is_dir());
    installed(&format!("{package} of PyPI"), there)
}

impl Gateway {
    pub(crate) async fn start(environment: BTreeMap<String, String>) -> Self {
        let (started_sender, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let exit = tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            shunt_module::live(&environment, stop, |context: Context<GatewaySettings>| {
                started_sender.send(context.listener.local_addr().unwrap()).unwrap();
                gateway::run(context)
            })
            .await
        });
        let http = timeout(PATIENCE, started).await.unwrap().unwrap();
        Self { http, client: client(), stop: Some(stop), exit }
    }

    /// With a bus of its own in this process, and these apps.
    pub(crate) async fn with_apps(folder: &Path, apps: &[(&str, SocketAddr)]) -> Self {
        Self::with(folder, apps, &[]).await
    }

    /// The same with more settings.
    pub(crate) async fn with(folder: &Path, apps: &[(&str, SocketAddr)], more: &[(&str, &str)]) -> Self {
        let apps: BTreeMap<_, _> = apps
            .iter()
            .map(|(id, address)| {
                (*id, serde_json::json!({"address": address.to_string(), "subscribe": false}))
            })
            .collect();
        let apps = serde_json::to_string(&apps).unwrap();
        let mut variables = vec![("SHUNT_GATEWAY_APPS", apps.as_str())];
        variables.extend(more);
        Self::start(environment(folder, &memory(folder), &variables)).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// Waits until this module has been seen on the bus.
    pub(crate) async fn sees(&self, module: &str, active: bool) {
        let expected = if active { serde_json::json!(true) } else { Value::Null };
        let path = format!("/device/{module}");
        eventually(PATIENCE, || async {
            let device: Value = self.get(&path).send().await.unwrap().json().await.unwrap();
            device["name"] == module && device["active"] == expected
        })
        .await;
    }

    /// Stops it in order, well within the drain limit of 8 s.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).ok();
        assert_eq!(timeout(Duration::from_secs(6), self.exit).await.unwrap().unwrap(), 0);
    }
}

/// Status and error code of an answer of the gateway itself, and its message.
pub(crate) async fn problem(answer: Response) -> (u16, String, String) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    let part = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name}: {text}")).to_owned();
    (status, part("errorCode"), part("message"))
}

impl Program {
    /// Starts a script with what the SDKs read from the environment.
    pub(crate) fn start(
        script: &str,
        arguments: &[&str],
        gateway: SocketAddr,
        app_port: Option<u16>,
    ) -> Self {
        let script = repo_root().join("tests/clients").join(script);
        let python = script.extension().is_some_and(|extension| extension == "py");
        let mut command =
            Command::new(if python { repo_root().join(".shunt/venv/bin/python") } else { "node".into() });
        command.arg(script).args(arguments).env("DAPR_HTTP_PORT", gateway.port().to_string());
        if let Some(port) = app_port {
            command.env("APP_PORT", port.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take().unwrap();
        Self { child, lines, input }
    }

    /// The next line that is not of the SDK's own log.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap()?;
            if line == "ready" || line.starts_with('{') {
                return Some(line);
            }
        }
    }

    /// Tells it a line.
    pub(crate) async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// All lines to the end, as JSON, by their step.
    pub(crate) async fn steps(mut self) -> BTreeMap<String, Value> {
        let mut steps = BTreeMap::new();
        while let Some(line) = self.line().await {
            let step: Value = serde_json::from_str(&line).unwrap();
            steps.insert(step["step"].as_str().unwrap().to_owned(), step);
        }
        assert!(timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().success());
        steps
    }
}
