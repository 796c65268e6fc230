//! A module in this process, on a bus of its own and a fresh port, and somebody who asks it.

#![allow(dead_code, reason = "each test takes of the yard what it needs")]

use std::{fs::File, net::SocketAddr, path::PathBuf, time::Duration};

use functions::FunctionsSettings;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;
use shunt_bus::{Bus, BusOptions};
use shunt_module::{Common, Context, Facts, Methods, SettingsHandle, SettingsSender};
use shunt_testkit::{eventually, repo_root, shared_dir};
use shunt_wire::Name;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take; a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Yard {
    pub(crate) folder: TempDir,
    /// Somebody else's end of the bus, with the name `tester`.
    pub(crate) bus: Bus,
    pub(crate) settings: SettingsSender<FunctionsSettings>,
    pub(crate) address: SocketAddr,
    pub(crate) methods: Methods,
    pub(crate) facts: Facts,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

// === impl Yard ===

impl Yard {
    /// Everything started, with these settings.
    pub(crate) async fn start(settings: FunctionsSettings) -> Self {
        Self::start_with(settings, tempfile::tempdir().unwrap(), |_| ()).await
    }

    /// Everything started in this folder, in which a module may have lived before. `prepare` gets the module's
    /// folders. The interpreters are those of the repository, the models those of `../shared`.
    pub(crate) async fn start_with(
        settings: FunctionsSettings,
        folder: TempDir,
        prepare: impl FnOnce(&mut Common),
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), settings, folder, prepare).await
    }

    /// The same, listening at this address.
    pub(crate) async fn start_at(
        listen: SocketAddr,
        settings: FunctionsSettings,
        folder: TempDir,
        prepare: impl FnOnce(&mut Common),
    ) -> Self {
        let mut common = Common { interpreters_dir: interpreters(), ..Common::in_folder(folder.path()) };
        if let Some(shared) = shared_dir() {
            common.models_dir = shared.join("models");
        }
        prepare(&mut common);
        let url = format!("memory:{}", folder.path().display().to_string().replace('/', "-"));
        let bus = Bus::open(BusOptions::new(&url, Name::from_static("tester"))).unwrap();
        let module = Bus::open(BusOptions::new(&url, Name::from_static("functions"))).unwrap();
        let (handle, sender) = SettingsHandle::channel(settings);
        let listener = TcpListener::bind(listen).await.unwrap();
        let mut address = listener.local_addr().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        let (context, stop) = Context::for_test(handle, module, None, common, listener);
        let (methods, facts) = (context.methods.clone(), context.facts.clone());
        let running = tokio::spawn(functions::run(context));
        let yard = Self { folder, bus, settings: sender, address, methods, facts, stop, running };
        // A request waits in the listener's queue until the module serves.
        eventually(LIMIT, || async { yard.get("/readyz").await.status == 200 }).await;
        yard
    }

    /// Stops the module; its folder for the next one.
    pub(crate) async fn end(self) -> TempDir {
        self.stop.cancel();
        timeout(LIMIT, self.running).await.unwrap().unwrap().unwrap();
        // The next module of this process can open the buckets when the last connection and thread of this one are gone.
        let state = self.folder.path().join("data/functions/state.redb");
        let free = || File::open(&state).is_ok_and(|file| file.try_lock().is_ok());
        eventually(LIMIT, || async { !state.exists() || free() }).await;
        self.folder
    }

    /// A request to be made more of: `yard.request(Method::PUT, "/functions/x").header(...)`, then [`send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, self.url(path))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// Posts a body, as `curl --data-binary` does.
    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(Method::POST, path);
        send(request.header("Content-Type", "application/x-www-form-urlencoded").body(body)).await
    }

    /// Deletes with a body, as `curl -X DELETE -d` does.
    pub(crate) async fn delete(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::DELETE, path).body(body)).await
    }

    /// Installs a file by `PUT /functions/NAME`; `grants` may be null. Gives the module's answer.
    pub(crate) async fn put(&self, name: &str, grants: &Value, body: impl Into<reqwest::Body>) -> Answer {
        let mut request = self.request(Method::PUT, &format!("/functions/{name}")).body(body);
        if !grants.is_null() {
            request = request.header("Shunt-Grants", grants.to_string());
        }
        send(request).await
    }

    /// Installs a file, which must go well; gives its entry.
    pub(crate) async fn install(&self, name: &str, grants: &Value, body: impl Into<reqwest::Body>) -> Value {
        let answer = self.put(name, grants, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The entry of a function in the listing.
    pub(crate) async fn entry(&self, name: &str) -> Value {
        self.get(&format!("/functions/{name}")).await.json()
    }

    /// A number on the module's page of metrics; 0 where it is not there.
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        let page = self.get("/metrics").await.text();
        let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Proposes the settings that the function makes of those in force; the module's verdict.
    pub(crate) async fn change(&self, settings: FunctionsSettings) -> Result<(), shunt_module::Problems> {
        timeout(LIMIT, self.settings.propose(settings)).await.unwrap()
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header, or empty.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request; its answer.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
}

/// Where the interpreters of text functions are, if they were built.
pub(crate) fn interpreters() -> PathBuf {
    repo_root().join(".shunt/interpreters")
}

/// A built guest of `functions/`: `guest("average.wasm")`.
pub(crate) fn guest(file: &str) -> Vec<u8> {
    let path = repo_root().join("functions").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn client() -> reqwest::Client {
    // The client wants to know who would do TLS, also where nobody does. A second call changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().tcp_nodelay(true).timeout(LIMIT).no_proxy().build().unwrap()
}
