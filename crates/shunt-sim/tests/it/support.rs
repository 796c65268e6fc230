//! A started stand-in, a plain MQTT client that may break any rule, and one HTTP call over any stream.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::BytesMut;
use rumqttc::mqttbytes::{
    QoS,
    v4::{Connect, ConnectReturnCode, Packet, PubAck, Publish, Subscribe, SubscribeReasonCode},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use shunt_sim::{Sim, SimOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Every wait ends here.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// What is not to come has not come within this time.
pub(crate) const QUIET: Duration = Duration::from_millis(300);
pub(crate) const DEVICE: &str = "shunt-device";
pub(crate) const HUB: &str = "shunt-sim.azure-devices.net";

/// A stand-in in a folder of its own.
pub(crate) struct Stand {
    pub(crate) sim: Sim,
    _folder: TempDir,
}

impl std::ops::Deref for Stand {
    type Target = Sim;

    fn deref(&self) -> &Sim {
        &self.sim
    }
}

pub(crate) async fn start(modules: &[&str]) -> anyhow::Result<Stand> {
    start_with(SimOptions::default(), modules).await
}

pub(crate) async fn start_with(options: SimOptions, modules: &[&str]) -> anyhow::Result<Stand> {
    let folder = tempfile::tempdir()?;
    let sim = Sim::start(SimOptions { folder: folder.path().to_owned(), ..options }).await?;
    for module in modules {
        sim.add_module(module)?;
    }
    Ok(Stand { sim, _folder: folder })
}

/// A manifest with these modules and routes.
pub(crate) fn manifest(modules: &[&str], routes: &Value) -> Value {
    let entries: serde_json::Map<String, Value> = modules
        .iter()
        .map(|module| {
            let entry = serde_json::json!({
                "version": "1.0", "type": "docker", "status": "running", "restartPolicy": "always",
                "env": {"COLOUR": {"value": "red"}, "COUNT": {"value": 3}},
                "settings": {"image": format!("localhost/{module}:1"), "createOptions": "{}"},
            });
            ((*module).to_owned(), entry)
        })
        .collect();
    serde_json::json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {
            "schemaVersion": "1.1",
            "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
            "systemModules": {},
            "modules": entries,
        }},
        "$edgeHub": {"properties.desired": {
            "schemaVersion": "1.2",
            "routes": routes,
            "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
        }},
    }})
}

/// The value of a field of a connection string.
pub(crate) fn field(text: &str, name: &str) -> String {
    let start = format!("{name}=");
    text.split(';').find_map(|part| part.strip_prefix(&start)).unwrap_or_default().to_owned()
}

/// Percent-encodes everything but letters, digits, `-._~`.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A token over this text of `sr`, signed as it stands.
pub(crate) fn token(sr: &str, key: &str, expiry: u64) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &BASE64.decode(key).unwrap());
    let signature = BASE64.encode(ring::hmac::sign(&key, format!("{sr}\n{expiry}").as_bytes()));
    format!("SharedAccessSignature sr={sr}&sig={}&se={expiry}", encode(&signature))
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn module_token(sim: &Sim, module: &str) -> String {
    let key = field(&sim.module_connection_string(module), "SharedAccessKey");
    token(&encode(&format!("{HUB}/devices/{DEVICE}/modules/{module}")), &key, now() + 3600)
}

pub(crate) fn user_name(module: &str) -> String {
    format!("{HUB}/{DEVICE}/{module}/?api-version=2021-04-12&DeviceClientType=shunt%2F0.1")
}

fn tls(bundle: &str, versions: &[&'static rustls::SupportedProtocolVersion]) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// TLS to an address of the stand-in, checked against its bundle and the name `localhost`.
pub(crate) async fn dial(sim: &Sim, address: std::net::SocketAddr) -> anyhow::Result<TlsStream<TcpStream>> {
    dial_with(sim, address, rustls::ALL_VERSIONS).await
}

pub(crate) async fn dial_with(
    sim: &Sim,
    address: std::net::SocketAddr,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = tls(sim.ca_bundle(), versions)?;
    Ok(timeout(LIMIT, connector.connect(ServerName::try_from("localhost")?, stream)).await??)
}

/// An MQTT client without manners.
pub(crate) struct Probe {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
    next: u16,
    /// The module.
    pub(crate) module: String,
}

impl Probe {
    pub(crate) async fn dial(sim: &Sim) -> anyhow::Result<Self> {
        let stream = dial(sim, sim.mqtt()).await?;
        Ok(Self { stream, buffer: BytesMut::new(), next: 0, module: String::new() })
    }

    /// Connected as a module.
    pub(crate) async fn connect(sim: &Sim, module: &str) -> anyhow::Result<Self> {
        let mut probe = Self::dial(sim).await?;
        module.clone_into(&mut probe.module);
        let code = probe
            .login(&format!("{DEVICE}/{module}"), &user_name(module), &module_token(sim, module), 60)
            .await?;
        ensure!(code == ConnectReturnCode::Success, "refused: {code:?}");
        Ok(probe)
    }

    /// CONNECT; the code of CONNACK.
    pub(crate) async fn login(
        &mut self,
        client_id: &str,
        user_name: &str,
        password: &str,
        keep_alive: u16,
    ) -> anyhow::Result<ConnectReturnCode> {
        let mut connect = Connect::new(client_id);
        connect.clean_session = false;
        connect.keep_alive = keep_alive;
        connect.set_login(user_name, password);
        self.login_with(connect).await
    }

    pub(crate) async fn login_with(&mut self, connect: Connect) -> anyhow::Result<ConnectReturnCode> {
        self.send(&Packet::Connect(connect)).await?;
        match self.receive().await? {
            Packet::ConnAck(ack) => {
                ensure!(!ack.session_present, "edgeHub keeps no session");
                Ok(ack.code)
            }
            other => bail!("{other:?} is no CONNACK"),
        }
    }

    pub(crate) async fn send(&mut self, packet: &Packet) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        packet.write(&mut out, usize::MAX).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        self.raw(&out).await
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        timeout(LIMIT, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await??;
        Ok(())
    }

    pub(crate) async fn receive(&mut self) -> anyhow::Result<Packet> {
        timeout(LIMIT, self.next_packet())
            .await
            .context("nothing came")??
            .context("the connection was closed")
    }

    /// The next packet must be a publish: topic, payload, packet id (0 at quality of service 0).
    pub(crate) async fn receive_publish(&mut self) -> anyhow::Result<Publish> {
        match self.receive().await? {
            Packet::Publish(publish) => Ok(publish),
            other => bail!("{other:?} is no PUBLISH"),
        }
    }

    /// Nothing comes, and the connection stays open.
    pub(crate) async fn quiet(&mut self) -> anyhow::Result<()> {
        match timeout(QUIET, self.next_packet()).await {
            Err(_) => Ok(()),
            Ok(Ok(packet)) => bail!("{packet:?} came"),
            Ok(Err(error)) => Err(error),
        }
    }

    /// The server closes without another packet.
    pub(crate) async fn expect_closed(&mut self) -> anyhow::Result<()> {
        match timeout(LIMIT, self.next_packet()).await.context("the connection is still open")? {
            Ok(None) | Err(_) => Ok(()),
            Ok(Some(packet)) => bail!("{packet:?} came"),
        }
    }

    async fn next_packet(&mut self) -> anyhow::Result<Option<Packet>> {
        use rumqttc::mqttbytes::Error;
        loop {
            match Packet::read(&mut self.buffer, usize::MAX) {
                Ok(packet) => return Ok(Some(packet)),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => bail!("{error:?}"),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> anyhow::Result<u8> {
        let mut subscribe = Subscribe::new(filter, qos);
        self.next += 1;
        subscribe.pkid = self.next;
        self.send(&Packet::Subscribe(subscribe)).await?;
        match self.receive().await? {
            Packet::SubAck(ack) if ack.pkid == self.next => match ack.return_codes.as_slice() {
                [SubscribeReasonCode::Success(qos)] => Ok(*qos as u8),
                other => bail!("{other:?}"),
            },
            other => bail!("{other:?} is no SUBACK"),
        }
    }

    /// Sends at quality of service 1; the packet id.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) -> anyhow::Result<u16> {
        self.next += 1;
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.as_bytes());
        publish.pkid = self.next;
        self.send(&Packet::Publish(publish)).await?;
        Ok(self.next)
    }

    pub(crate) async fn expect_puback(&mut self, id: u16) -> anyhow::Result<()> {
        match self.receive().await? {
            Packet::PubAck(ack) if ack.pkid == id => Ok(()),
            other => bail!("{other:?} is not the PUBACK of {id}"),
        }
    }

    pub(crate) async fn acknowledge(&mut self, id: u16) -> anyhow::Result<()> {
        self.send(&Packet::PubAck(PubAck::new(id))).await
    }

    /// Telemetry on an output, acknowledged.
    pub(crate) async fn telemetry(&mut self, output: &str, more: &str, body: &str) -> anyhow::Result<()> {
        let topic = format!("devices/{DEVICE}/modules/{}/messages/events/%24.on={output}{more}", self.module);
        let id = self.publish(&topic, body).await?;
        self.expect_puback(id).await
    }

    /// Subscribes to all inputs.
    pub(crate) async fn subscribe_inputs(&mut self) -> anyhow::Result<()> {
        let filter = format!("devices/{DEVICE}/modules/{}/inputs/#", self.module);
        self.subscribe(&filter, QoS::AtLeastOnce).await.map(drop)
    }

    /// A twin request and its answer: status and body.
    pub(crate) async fn twin_request(
        &mut self,
        what: &str,
        rid: &str,
        body: &str,
    ) -> anyhow::Result<(String, Value)> {
        let publish =
            Publish::new(format!("$iothub/twin/{what}/?$rid={rid}"), QoS::AtMostOnce, body.as_bytes());
        self.send(&Packet::Publish(publish)).await?;
        let answer = self.receive_publish().await?;
        let body =
            if answer.payload.is_empty() { Value::Null } else { serde_json::from_slice(&answer.payload)? };
        Ok((answer.topic, body))
    }
}

/// One HTTP/1.1 call; status and body. Without a header `Host` it is one as at a workload socket.
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> anyhow::Result<(u16, Value)> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    let host = ("Host", "/var/run/iotedge/workload.sock:0");
    let host = if headers.iter().any(|(name, _)| *name == "Host") { None } else { Some(&host) };
    for (name, value) in headers.iter().chain(host) {
        write!(request, "{name}: {value}\r\n")?;
    }
    let body = body.unwrap_or_default();
    write!(request, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = Vec::new();
    timeout(LIMIT, async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        stream.read_to_end(&mut answer).await
    })
    .await??;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body)? };
    Ok((status, body))
}

/// A call at a module's workload socket.
pub(crate) async fn workload(
    sim: &Sim,
    module: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> anyhow::Result<(u16, Value)> {
    call(UnixStream::connect(sim.workload_socket(module)).await?, method, path, &[], body).await
}

/// A call at the control address.
pub(crate) async fn control(
    sim: &Sim,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> anyhow::Result<(u16, Value)> {
    let host = sim.control().to_string();
    call(TcpStream::connect(sim.control()).await?, method, path, &[("Host", &host)], body).await
}
