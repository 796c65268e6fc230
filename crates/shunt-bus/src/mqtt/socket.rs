//! A connection to the broker, up to its CONNACK.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Connect, ConnectReturnCode, LastWill, Packet};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::packets::{self, Incoming, reason_text};
use crate::{
    BusError,
    options::{TlsFrom, TlsSource},
};

/// How long the broker may take to accept the connection, TLS and CONNECT.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long certificates may take: small devices make keys slowly.
const CERTIFICATES_LIMIT: Duration = Duration::from_mins(1);

/// Where the broker is.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
}

/// How the connection is made private.
#[derive(Clone)]
pub(crate) enum Tls {
    Fixed(Arc<ClientConfig>),
    Source(Arc<dyn TlsSource>),
}

/// An open connection.
pub(super) struct Socket {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// What came and is not read yet; grows to the largest packet at most.
    pub(super) inbox: BytesMut,
    pub(super) connack: ConnAck,
}

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the broker did not answer in time")]
    Time,
    #[error("the broker is silent")]
    Silent,
    #[error("the broker closed the connection")]
    Closed,
    #[error(
        "the broker closes the connection again and again; is another module of the same name on the bus? Give each one its own"
    )]
    Taken,
    #[error("the broker ended the connection: {}", reason_text(*.0))]
    Ended(u8),
    #[error("the broker refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("there are no certificates for the bus: {0}")]
    NoCertificates(String),
    #[error("the broker's name {0:?} cannot stand in a certificate")]
    Name(String),
    #[error("the broker sent what is not MQTT: {0}")]
    Packet(#[from] rumqttc::v5::mqttbytes::Error),
    #[error("the broker broke the protocol: {0}")]
    Protocol(&'static str),
}

// === impl Tls ===

impl Tls {
    pub(crate) fn new(from: TlsFrom) -> Result<Self, BusError> {
        Ok(match from {
            TlsFrom::Fixed(tls) => Self::Fixed(tls.config()?),
            TlsFrom::Source(source) => Self::Source(source),
        })
    }

    pub(crate) async fn config(&self) -> Result<Arc<ClientConfig>, Broken> {
        match self {
            Self::Fixed(config) => Ok(Arc::clone(config)),
            Self::Source(source) => {
                let tls = timeout(CERTIFICATES_LIMIT, source.tls()).await;
                let late = || "they were not given in time".to_owned();
                let tls = tls.map_err(|_| late()).flatten().map_err(Broken::NoCertificates)?;
                tls.config().map_err(|error| Broken::NoCertificates(error.to_string()))
            }
        }
    }

    pub(crate) fn failed(&self) {
        if let Self::Source(source) = self {
            source.failed();
        }
    }
}

// === impl Target ===

impl Target {
    /// Connects; returns after the broker accepted us.
    pub(super) async fn connect(
        &self,
        connect: Connect,
        will: Option<LastWill>,
        max_packet: usize,
    ) -> Result<Socket, Broken> {
        let tls = match &self.tls {
            Some(tls) => Some((tls, tls.config().await?)),
            None => None,
        };
        let connecting = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            // Without this, Nagle's algorithm and delayed acknowledgements cost 40 ms a message.
            stream.set_nodelay(true)?;
            let config = tls.as_ref().map(|(_, config)| Arc::clone(config));
            let result = self.enter(stream, config, connect, will, max_packet).await;
            if let (Err(_), Some((tls, _))) = (&result, &tls) {
                tls.failed();
            }
            result
        };
        timeout(CONNECT_LIMIT, connecting).await.map_err(|_| Broken::Time)?
    }

    /// From the open stream to the CONNACK.
    async fn enter(
        &self,
        stream: TcpStream,
        tls: Option<Arc<ClientConfig>>,
        connect: Connect,
        will: Option<LastWill>,
        max_packet: usize,
    ) -> Result<Socket, Broken> {
        let (mut reader, mut writer): (
            Box<dyn AsyncRead + Send + Unpin>,
            Box<dyn AsyncWrite + Send + Unpin>,
        ) = match tls {
            None => {
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Some(config) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|_| Broken::Name(self.host.clone()))?;
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                let (reader, writer) = tokio::io::split(stream);
                (Box::new(reader), Box::new(writer))
            }
        };
        let mut out = BytesMut::new();
        Packet::Connect(connect, will, None).write(&mut out, None)?;
        writer.write_all(&out).await?;
        writer.flush().await?;
        let mut inbox = BytesMut::with_capacity(16 << 10);
        loop {
            match packets::next(&mut inbox, max_packet)? {
                Some(Incoming::Packet(Packet::ConnAck(connack))) => {
                    if connack.code != ConnectReturnCode::Success {
                        return Err(Broken::Refused(connack.code));
                    }
                    return Ok(Socket { reader, writer, inbox, connack });
                }
                Some(_) => return Err(Broken::Protocol("its first packet is no CONNACK")),
                None if reader.read_buf(&mut inbox).await? == 0 => return Err(Broken::Closed),
                None => {}
            }
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "mqtts" } else { "mqtt" };
        write!(formatter, "{scheme}://{}:{}", self.host, self.port)
    }
}
