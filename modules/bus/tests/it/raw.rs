//! A client that sends what it likes.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{ConnAck, Connect, ConnectProperties, ConnectReturnCode, LastWill, Login, Packet, Publish},
};
use rustls::{ClientConfig, HandshakeKind, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::LIMIT;

/// An open TLS connection to the broker.
pub(crate) struct RawClient {
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
}

// === impl RawClient ===

impl RawClient {
    /// Opens a connection, and says nothing.
    pub(crate) async fn open(broker: SocketAddr, tls: &Arc<ClientConfig>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = timeout(LIMIT, TlsConnector::from(Arc::clone(tls)).connect(name, stream)).await??;
        Ok(Self { stream, inbox: BytesMut::new() })
    }

    /// Opens a connection and enters as this client id, and perhaps a user name.
    pub(crate) async fn enter(
        broker: SocketAddr,
        tls: &Arc<ClientConfig>,
        client_id: &str,
        user: Option<&str>,
    ) -> anyhow::Result<(Self, ConnAck)> {
        let mut client = Self::open(broker, tls).await?;
        let login = user.map(|user| Login { username: user.to_owned(), password: "x".to_owned() });
        let answer = client.connect(client_id, None, login).await?;
        Ok((client, answer))
    }

    /// Opens a connection and leaves a last will.
    pub(crate) async fn with_will(
        broker: SocketAddr,
        tls: &Arc<ClientConfig>,
        client_id: &str,
        will: LastWill,
    ) -> anyhow::Result<Self> {
        let mut client = Self::open(broker, tls).await?;
        client.connect(client_id, Some(will), None).await?;
        Ok(client)
    }

    async fn connect(
        &mut self,
        client_id: &str,
        will: Option<LastWill>,
        login: Option<Login>,
    ) -> anyhow::Result<ConnAck> {
        // Delayed wills wait no longer than the session lives.
        let properties = will
            .is_some()
            .then(|| ConnectProperties { session_expiry_interval: Some(60), ..ConnectProperties::new() });
        let clean_start = will.is_some();
        let connect = Connect { keep_alive: 60, client_id: client_id.to_owned(), clean_start, properties };
        self.send(&Packet::Connect(connect, will, login)).await?;
        match self.next().await? {
            Packet::ConnAck(answer) if answer.code == ConnectReturnCode::Success => Ok(answer),
            other => bail!("the broker answered {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: &Packet) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        self.send_bytes(&out).await
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Was this connection made by what an earlier one left, in place of a certificate?
    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Publishes with `QoS` 1 and this packet id; does not wait.
    pub(crate) async fn publish(&mut self, topic: &str, payload: Vec<u8>, id: u16) -> anyhow::Result<()> {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, None);
        publish.pkid = id;
        self.send(&Packet::Publish(publish)).await
    }

    /// The next packet; an error where the connection is closed.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Packet> {
        loop {
            match Packet::read(&mut self.inbox, None) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => bail!("the broker sent what is no packet: {error:?}"),
            }
            let read =
                timeout(LIMIT, self.stream.read_buf(&mut self.inbox)).await.context("it says nothing")??;
            anyhow::ensure!(read != 0, "the broker closed the connection");
        }
    }

    /// Waits until the broker has closed the connection, whatever it says before.
    pub(crate) async fn closed(&mut self) -> anyhow::Result<()> {
        let mut rest = vec![0; 4096];
        let reading = async { while self.stream.read(&mut rest).await.is_ok_and(|read| read != 0) {} };
        timeout(LIMIT, reading).await.context("the broker did not close the connection")
    }
}
