//! The folder in which the sockets are.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use shunt_wire::Name;
use tokio::net::{UnixListener, UnixStream};

/// The end of the names of sockets that speak this version; others are passed by.
pub(super) const VERSION: &str = ".1";
/// A socket that is not listened to yet has this at the start of its name.
const UNFINISHED: &str = ".";
/// The longest path of a socket in bytes: `sun_path` has 108, with the zero at the end.
const MAX_PATH: usize = 107;
/// So much of the module's name is in the name of its socket, in bytes.
const MAX_NAME: usize = 32;
/// A socket that is unfinished for so long is left over from a module that was killed.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// Our socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    /// Its name in the folder.
    pub(super) name: String,
    path: PathBuf,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no folder of this user")]
    Foreign,
    #[error("the path of a socket in it has {0} bytes, {MAX_PATH} are allowed")]
    Long(usize),
}

/// The folder of the sockets in what modules share.
pub(super) fn of(shared: &Path) -> PathBuf {
    shared.join("bus")
}

/// The sockets of the others.
pub(super) fn others(folder: &Path, own: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == own || !name.ends_with(VERSION) {
            continue;
        }
        let is_finished = !name.starts_with(UNFINISHED);
        if is_finished || entry.metadata().is_ok_and(|metadata| is_forgotten(&metadata)) {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_forgotten(metadata: &fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age > FORGOTTEN)
}

/// Connects to a socket. The file of one that nobody listens to any more is removed.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let connected = UnixStream::connect(path).await;
    if let Err(error) = &connected
        && error.kind() == ErrorKind::ConnectionRefused
    {
        // A socket gets its name only when it is listened to, so this one's process is dead.
        fs::remove_file(path)?;
        tracing::debug!(path = %path.display(), "Removed the socket of a module that is gone.");
    }
    connected
}

/// Is the process at the other end one of our user? Modules of one device are; all else is not trusted.
pub(super) fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw())
}

// === impl Socket ===

impl Socket {
    pub(super) fn bind(folder: &Path, module: &Name) -> Result<Self, BindError> {
        let module = module.as_str();
        let module = module.get(..module.floor_char_boundary(MAX_NAME)).unwrap_or_default();
        let name = format!("{module}-{:016x}{VERSION}", rand::random::<u64>());
        let (path, unfinished) = (folder.join(&name), folder.join(format!("{UNFINISHED}{name}")));
        let length = unfinished.as_os_str().len();
        if length > MAX_PATH {
            return Err(BindError::Long(length));
        }
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let metadata = fs::symlink_metadata(folder)?;
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(BindError::Foreign);
        }
        let listener = UnixListener::bind(&unfinished)?;
        let socket = Self { listener, name, path };
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))?;
        // Whoever sees the final name can connect to it.
        fs::rename(&unfinished, &socket.path)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already, with its whole folder; and what is left, the next scan of another removes.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: Name = Name::from_static("camera");

    #[tokio::test]
    async fn a_socket_is_there_for_its_user_only_and_goes_with_its_owner() {
        let shared = tempfile::tempdir().unwrap();
        let folder = of(shared.path());
        let socket = Socket::bind(&folder, &CAMERA).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&socket.path)), (0o700, 0o600));
        assert_eq!(others(&folder, "").unwrap(), std::slice::from_ref(&socket.name));
        assert!(others(&folder, &socket.name).unwrap().is_empty());
        let stream = connect(&socket.path).await.unwrap();
        assert!(is_ours(&stream).unwrap());
        drop(socket);
        assert!(others(&folder, "").unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_removed() {
        let shared = tempfile::tempdir().unwrap();
        let folder = of(shared.path());
        fs::create_dir(&folder).unwrap();
        let path = folder.join("camera-0.1");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert_eq!(connect(&path).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn sockets_of_other_versions_and_unfinished_ones_are_passed_by() {
        let shared = tempfile::tempdir().unwrap();
        let folder = of(shared.path());
        let socket = Socket::bind(&folder, &CAMERA).unwrap();
        for name in [".camera-1.1", "camera-1.2", "notes"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let old = fs::File::create(folder.join(".camera-2.1")).unwrap();
        old.set_modified(std::time::SystemTime::now() - 2 * FORGOTTEN).unwrap();
        let names = others(&folder, &socket.name).unwrap();
        assert_eq!(names, [".camera-2.1"]);
    }

    #[tokio::test]
    async fn a_path_too_long_and_what_is_no_folder_are_refused() {
        let shared = tempfile::tempdir().unwrap();
        let long = shared.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        assert!(matches!(Socket::bind(&of(&long), &CAMERA), Err(BindError::Long(108..))));
        std::os::unix::fs::symlink(&long, of(shared.path())).unwrap();
        assert!(matches!(Socket::bind(&of(shared.path()), &CAMERA), Err(BindError::Foreign)));
    }
}
