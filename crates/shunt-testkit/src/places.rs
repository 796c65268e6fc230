//! Where things are: the repository, the material beside it, built programs, free addresses.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

/// The root of the repository.
pub fn repo_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The folder of material beside the repository (`../shared`), where it is there. Tests that need it print a
/// line and pass where it is not.
pub fn shared_dir() -> Option<PathBuf> {
    let folder = repo_root().parent()?.join("shared");
    folder.join("models").is_dir().then_some(folder)
}

/// A sample picture by its file name, for example `face.jpg`, where [`shared_dir`] is there.
pub fn sample_picture(name: &str) -> Option<PathBuf> {
    let picture = shared_dir()?.join("models").join("images").join(name);
    picture.is_file().then_some(picture)
}

/// A built program of this workspace, from the target folder that this test was built into.
///
/// # Panics
///
/// When it is not built; the message says how to build it.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // A test lies in `target/<profile>/deps`, a doc test and an example one folder beside.
    let found = test.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    let Some(found) = found else {
        let near = test.display();
        #[expect(clippy::panic, reason = "only tests call this; they cannot go on without the program")]
        {
            panic!("The program {name:?} is not built near {near}: run `cargo build --bin {name}` first.");
        }
    };
    found
}

/// An address of the loopback interface that was free a moment ago, for servers that cannot bind port 0.
pub fn fresh_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
