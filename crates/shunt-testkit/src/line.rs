//! A line that can be cut.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The size of one piece that passes.
const PIECE: usize = 16 << 10;
/// How long the far end may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A TCP proxy on a fresh loopback port, between a client and a server, that a test can cut, freeze, slow and
/// heal. It ends, and with it all its connections, when this value is dropped.
#[derive(Debug)]
pub struct Line {
    addr: SocketAddr,
    shared: Arc<Shared>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// Cancelled to close the connections of now; nothing while the line is cut.
    open: Mutex<Option<CancellationToken>>,
    frozen: watch::Sender<bool>,
    delay_us: AtomicU64,
    /// Bytes that may still pass to the server before the line cuts itself; negative: no limit.
    left: AtomicI64,
    now: AtomicUsize,
    made: AtomicU64,
}

// === impl Line ===

impl Line {
    /// A line to this server.
    pub async fn to(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            open: Mutex::new(Some(CancellationToken::new())),
            frozen: watch::Sender::new(false),
            delay_us: AtomicU64::new(0),
            left: AtomicI64::new(-1),
            now: AtomicUsize::new(0),
            made: AtomicU64::new(0),
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(
            listener,
            Arc::clone(&shared),
            end.clone(),
        )));
        Ok(Self { addr, shared, end })
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes all connections, and every new one at once, until [`Line::heal`].
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts the line in the middle of things: after this many further bytes have passed to the server.
    pub fn cut_after(&self, bytes: u32) {
        self.shared.left.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Is the line cut?
    pub fn is_cut(&self) -> bool {
        self.shared.open.lock().is_none()
    }

    /// Lets connections through again, without delay.
    pub fn heal(&self) {
        self.shared.left.store(-1, Ordering::SeqCst);
        self.shared.delay_us.store(0, Ordering::SeqCst);
        self.shared.frozen.send_replace(false);
        self.shared.open.lock().get_or_insert_default();
    }

    /// Closes the connections of now, and lets new ones through.
    pub fn drop_connections(&self) {
        self.cut();
        self.heal();
    }

    /// Lets nothing pass until [`Line::heal`], but keeps the connections: a network that swallows packets.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Holds each piece of data, in both directions, for this time, until [`Line::heal`].
    pub fn slow(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay_us.store(delay, Ordering::SeqCst);
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.now.load(Ordering::SeqCst)
    }

    /// Connections that were let through since the start.
    pub fn connections_made(&self) -> u64 {
        self.shared.made.load(Ordering::SeqCst)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.cut();
        self.end.cancel();
    }
}

// === impl Shared ===

impl Shared {
    fn cut(&self) {
        if let Some(open) = self.open.lock().take() {
            open.cancel();
        }
    }

    /// How many of these bytes may pass to the server; fewer than all: the line cuts itself after them.
    fn allow(&self, bytes: usize) -> usize {
        let left = self.left.load(Ordering::SeqCst);
        if left < 0 {
            return bytes;
        }
        let passing = bytes.min(usize::try_from(left).unwrap_or(0));
        self.left.fetch_sub(passing as i64, Ordering::SeqCst);
        passing
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, end: CancellationToken) {
    let tasks = TaskTracker::new();
    while let Ok((client, _)) = listener.accept().await {
        let open = shared.open.lock().clone();
        // While the line is cut, a new connection is closed at once.
        if let Some(open) = open {
            let (shared, end) = (Arc::clone(&shared), end.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = open.cancelled() => {}
                    () = end.cancelled() => {}
                    _ = carry(client, &shared) => {}
                }
            });
        }
    }
}

async fn carry(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let server = timeout(CONNECT_LIMIT, TcpStream::connect(shared.server)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.made.fetch_add(1, Ordering::SeqCst);
    let _count = Count::of(&shared.now);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first end of stream or error in either direction ends both: a broken line has no half.
    tokio::select! {
        result = pass(from_client, to_server, shared, true) => result,
        result = pass(from_server, to_client, shared, false) => result,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    upstream: bool,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut frozen = shared.frozen.subscribe();
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        if frozen.wait_for(|frozen| !frozen).await.is_err() {
            return Ok(());
        }
        let delay = shared.delay_us.load(Ordering::SeqCst);
        if delay > 0 {
            sleep(Duration::from_micros(delay)).await;
        }
        let passing = if upstream { shared.allow(length) } else { length };
        to.write_all(piece.get(..passing).unwrap_or_default()).await?;
        if passing < length {
            to.flush().await?;
            shared.cut();
            return Ok(());
        }
    }
}

/// Counts a connection for as long as it lives.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn of(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
