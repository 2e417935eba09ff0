//! One daemon per node: a flock that the kernel releases with the process, so it is never stale.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Held as long as the value lives.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("twinwall runs already for this node as {holder} (lock {}): stop that one first, or choose --socket", path.display())]
    Held { path: PathBuf, holder: String },
    #[error("cannot lock {}: {source} (run as root, or choose a writable place with --socket)", path.display())]
    Failed { path: PathBuf, source: std::io::Error },
}

impl InstanceLock {
    /// Takes the lock beside `socket` (`NODE.sock` → `NODE.lock`), making the directory if it is missing.
    ///
    /// # Errors
    /// [`LockError::Held`] names the process that holds it.
    pub fn take(socket: &Path) -> Result<Self, LockError> {
        let path = socket.with_extension("lock");
        let failed = |source| LockError::Failed { path: path.clone(), source };
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(match error {
                rustix::io::Errno::WOULDBLOCK => LockError::Held { holder: holder(&mut file), path },
                other => failed(other.into()),
            });
        }
        // The pid is for people; the lock itself is the kernel's.
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(16).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("pid {}", text.trim()),
        Ok(_) | Err(_) => "an unknown pid".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second lock is refused with the holder's pid; after the first is gone its file does not matter.
    #[test]
    fn exclusive_and_never_stale() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("made/fw1.sock");
        let lock = InstanceLock::take(&socket).unwrap();
        let refused = InstanceLock::take(&socket).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(lock);
        assert!(directory.path().join("made/fw1.lock").exists());
        InstanceLock::take(&socket).unwrap();
    }
}
