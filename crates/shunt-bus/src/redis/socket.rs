//! Connections to Redis, from the address to the point where commands are answered.

use std::{collections::VecDeque, fmt, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::resp::{self, Malformed, Reply};
use crate::{BusError, TlsFrom, mqtt::Tls};

/// How long Redis may take to accept the connection, TLS and password included.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Read at least so much at once.
const READ: usize = 16 << 10;
/// Bytes waiting to be written above which no further message is taken: the queues fill instead.
const OUT_LIMIT: usize = 256 << 10;
/// Commands without an answer above which no further message is taken.
const EXPECTED_LIMIT: usize = 4096;

/// Where Redis is, and who we are there. Its `Debug` form shows no password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) place: Place,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
}

/// How Redis is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the broker did not answer in time")]
    Time,
    #[error("the broker is silent")]
    Silent,
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    #[error("the broker ended the work: {0}")]
    Failed(String),
    #[error("another module of the same name is on the bus; give each one its own")]
    Taken,
    #[error("{0}")]
    Tls(String),
    #[error("the broker's name {0:?} cannot stand in a certificate")]
    Name(String),
    #[error("the broker sent what is not Redis: {0}")]
    Malformed(#[from] Malformed),
    #[error("the broker broke the protocol: {0}")]
    Protocol(&'static str),
}

/// A connection that nothing was said on yet.
enum Stream {
    Unix(UnixStream),
    /// With the name of the host.
    Tcp(TcpStream, String),
}

/// An open connection.
pub(super) struct Socket {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// What came and is not read yet; grows to the largest reply at most.
    inbox: BytesMut,
    /// The longest string that may come.
    max: usize,
}

/// An open connection, and what is expected from it: `E` for each command that is answered.
pub(super) struct Talk<E> {
    socket: Socket,
    /// What is to be written. Bounded by [`OUT_LIMIT`] and one message, by those who look at `has_room`.
    out: BytesMut,
    /// Something was written and not flushed yet.
    flush: bool,
    /// Answered in this order. Bounded by [`EXPECTED_LIMIT`], by those who look at `has_room`; what does not look
    /// (acknowledgements, heartbeats) is bounded by what is acknowledged, and by the time after which Redis is silent.
    pub(super) expected: VecDeque<E>,
    /// Since when nothing came although something is expected.
    since: Instant,
}

// === impl Server ===

impl Server {
    /// What the address needs of this for TLS, where it asks for TLS.
    pub(crate) fn tls(&self, tls: Option<TlsFrom>) -> Result<Option<Tls>, BusError> {
        if !matches!(self.place, Place::Tcp { tls: true, .. }) {
            return Ok(None);
        }
        let tls = tls.ok_or_else(|| BusError::Trust(format!("{self:?}")))?;
        Tls::new(tls).map(Some)
    }

    /// Makes so many connections, and says on each who we are.
    pub(super) async fn connect<const COUNT: usize>(
        &self,
        tls: Option<&Tls>,
        name: &str,
        max: usize,
    ) -> Result<[Socket; COUNT], Broken> {
        // Making certificates may take longer than connecting.
        let config = match tls {
            Some(tls) => Some(tls.config().await.map_err(|error| Broken::Tls(error.to_string()))?),
            None => None,
        };
        let connecting = async {
            let mut sockets = Vec::with_capacity(COUNT);
            for _ in 0..COUNT {
                let stream = self.reach().await?;
                let entered = async {
                    let mut socket = Self::secure(stream, config.clone(), max).await?;
                    self.enter(&mut socket, name).await?;
                    Ok(socket)
                };
                let entered = entered.await;
                if let (Err(Broken::Io(_) | Broken::Closed), Some(tls)) = (&entered, tls) {
                    tls.failed();
                }
                sockets.push(entered?);
            }
            sockets.try_into().map_err(|_| Broken::Protocol("connections are missing"))
        };
        timeout(CONNECT_LIMIT, connecting).await.map_err(|_| Broken::Time)?
    }

    async fn reach(&self) -> Result<Stream, Broken> {
        Ok(match &self.place {
            Place::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            Place::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // Without this, Nagle's algorithm and delayed acknowledgements cost 40 ms a message.
                stream.set_nodelay(true)?;
                Stream::Tcp(stream, host.clone())
            }
        })
    }

    async fn secure(stream: Stream, config: Option<Arc<ClientConfig>>, max: usize) -> Result<Socket, Broken> {
        Ok(match (stream, config) {
            (Stream::Unix(stream), _) => {
                let (reader, writer) = stream.into_split();
                Socket::new(reader, writer, max)
            }
            (Stream::Tcp(stream, _), None) => {
                let (reader, writer) = stream.into_split();
                Socket::new(reader, writer, max)
            }
            (Stream::Tcp(stream, host), Some(config)) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| Broken::Name(host))?;
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                let (reader, writer) = tokio::io::split(stream);
                Socket::new(reader, writer, max)
            }
        })
    }

    /// Password, database, and our name for `CLIENT LIST`.
    async fn enter(&self, socket: &mut Socket, name: &str) -> Result<(), Broken> {
        let refused = |reply| match reply {
            Reply::Error(error) => Err(Broken::Refused(error)),
            _ => Ok(()),
        };
        match (&self.user, &self.password) {
            (_, None) => {}
            (None, Some(password)) => refused(socket.call(&[b"AUTH", password.as_bytes()]).await?)?,
            (Some(user), Some(password)) => {
                refused(socket.call(&[b"AUTH", user.as_bytes(), password.as_bytes()]).await?)?;
            }
        }
        if self.database != 0 {
            refused(socket.call(&[b"SELECT", self.database.to_string().as_bytes()]).await?)?;
        }
        // Only a comfort: a user may be forbidden to say it.
        drop(socket.call(&[b"CLIENT", b"SETNAME", format!("shunt:{name}").as_bytes()]).await?);
        // Redis says here that it is loading, or wants a password.
        refused(socket.call(&[b"PING"]).await?)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password must not reach a log.
        match &self.place {
            Place::Unix(path) => write!(formatter, "redis+unix://{}", path.display()),
            Place::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                write!(formatter, "{scheme}://{host}:{port}/{}", self.database)
            }
        }
    }
}

// === impl Socket ===

impl Socket {
    /// A connection of these halves that nothing was said on yet.
    pub(super) fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        max: usize,
    ) -> Self {
        let (reader, writer) = (Box::new(reader), Box::new(writer));
        Self { reader, writer, inbox: BytesMut::with_capacity(READ), max }
    }

    /// Sends one command and waits for its answer; while nothing else is on its way.
    pub(super) async fn call(&mut self, parts: &[&[u8]]) -> Result<Reply, Broken> {
        let mut out = BytesMut::new();
        resp::write(&mut out, parts);
        self.writer.write_all(&out).await?;
        self.writer.flush().await?;
        loop {
            if let Some(reply) = resp::next(&mut self.inbox, self.max)? {
                return Ok(reply);
            }
            if self.reader.read_buf(&mut self.inbox).await? == 0 {
                return Err(Broken::Closed);
            }
        }
    }
}

// === impl Talk ===

impl<E> Talk<E> {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, out: BytesMut::new(), flush: false, expected: VecDeque::new(), since: Instant::now() }
    }

    /// Writes a command; its answer is `expect`ed.
    pub(super) fn ask(&mut self, parts: &[&[u8]], expect: E) {
        if self.expected.is_empty() {
            self.since = Instant::now();
        }
        resp::write(&mut self.out, parts);
        self.expected.push_back(expect);
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_LIMIT && self.expected.len() < EXPECTED_LIMIT
    }

    /// Did nothing come for so long although something is expected?
    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        !self.expected.is_empty() && self.since.elapsed() > limit
    }

    /// Writes some of what is to be written, or reads some of what comes. Cancel-safe.
    pub(super) async fn turn(&mut self) -> Result<(), Broken> {
        let Self { socket: Socket { reader, writer, inbox, .. }, out, flush, since, .. } = self;
        let read = async {
            inbox.reserve(READ);
            reader.read_buf(inbox).await
        };
        let writing = !out.is_empty();
        let flushing = !writing && *flush;
        let write =
            async { if writing { writer.write_buf(out).await } else { writer.flush().await.map(|()| 0) } };
        tokio::select! { biased;
            written = write, if writing || flushing => {
                written?;
                *flush = writing;
            }
            read = read => {
                if read? == 0 {
                    return Err(Broken::Closed);
                }
                *since = Instant::now();
            }
        }
        Ok(())
    }

    /// The next whole reply that came.
    pub(super) fn reply(&mut self) -> Result<Option<Reply>, Broken> {
        Ok(resp::next(&mut self.socket.inbox, self.socket.max)?)
    }
}
