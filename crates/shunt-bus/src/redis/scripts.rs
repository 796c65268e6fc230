//! What takes more than one step at the server: no other client sees half of it, and no broken line leaves half of it.

use tokio::time::timeout;

use super::{
    resp::Reply,
    socket::{Broken, CONNECT_LIMIT, Socket},
};

/// What the scripts have in common.
const COMMON: &str = include_str!("deliver.lua");

/// The scripts, in the order of [`SOURCES`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Script {
    Acknowledge,
    Beat,
    Bye,
    Hello,
    Publish,
    Subscribe,
}

const SOURCES: [&str; 6] = [
    include_str!("acknowledge.lua"),
    include_str!("beat.lua"),
    include_str!("bye.lua"),
    include_str!("hello.lua"),
    include_str!("publish.lua"),
    include_str!("subscribe.lua"),
];

/// The names by which the server knows the scripts.
pub(super) struct Scripts([Vec<u8>; SOURCES.len()]);

// === impl Scripts ===

impl Scripts {
    /// Makes the scripts known to the server, within the time for connecting.
    pub(super) async fn load(socket: &mut Socket) -> Result<Self, Broken> {
        timeout(CONNECT_LIMIT, Self::load_all(socket)).await.map_err(|_| Broken::Time)?
    }

    async fn load_all(socket: &mut Socket) -> Result<Self, Broken> {
        let mut digests: [Vec<u8>; SOURCES.len()] = Default::default();
        for (source, digest) in SOURCES.iter().zip(&mut digests) {
            let source = format!("{COMMON}\n{source}");
            match socket.call(&[b"SCRIPT", b"LOAD", source.as_bytes()]).await? {
                Reply::Text(text) => *digest = text.to_vec(),
                Reply::Error(error) => return Err(Broken::Refused(error)),
                _ => return Err(Broken::Protocol("an answer to SCRIPT LOAD of another form")),
            }
        }
        Ok(Self(digests))
    }

    pub(super) fn digest(&self, script: Script) -> &[u8] {
        self.0.get(script as usize).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_server_that_falls_silent_before_it_knows_the_scripts_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(ours);
        let mut socket = Socket::new(reader, writer, 1 << 20);
        let loaded = timeout(CONNECT_LIMIT + Duration::from_secs(15), Scripts::load(&mut socket)).await;
        assert!(matches!(loaded, Ok(Err(Broken::Time))));
    }
}
