//! Maintenance outlives a restart and a reboot: a small file says that it is on.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A state directory that does not serve.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    #[error("cannot read {}: {source} (is [daemon] state_directory a directory of root's?)", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("cannot write {}: {source} (make [daemon] state_directory writable; nothing was changed)", file.display())]
    Unwritable { file: PathBuf, source: io::Error },
}

/// The file `NODE.maintenance` in the state directory: it is there exactly while maintenance is on.
#[derive(Clone, Debug)]
pub struct MaintenanceFile {
    directory: PathBuf,
    file: PathBuf,
    /// What is written before it gets its name.
    draft: PathBuf,
}

const CONTENT: &[u8] = b"twinwall maintenance is on; end it with: twinwall maintenance off\n";

impl MaintenanceFile {
    /// The file of this node; nothing is touched.
    pub fn new(directory: &Path, node: &str) -> Self {
        let in_directory = |suffix: &str| directory.join(format!("{node}.{suffix}"));
        let (file, draft) = (in_directory("maintenance"), in_directory("maintenance.new"));
        Self { directory: directory.to_owned(), file, draft }
    }

    /// Whether maintenance is on. A directory that was never made says no.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_on(&self) -> Result<bool, MaintenanceError> {
        self.file.try_exists().map_err(|source| MaintenanceError::Unreadable { file: self.file.clone(), source })
    }

    /// Makes it so, on disk when this returns: who acts afterwards cannot forget it by a crash.
    ///
    /// # Errors
    /// When the directory cannot be written; then nothing has changed.
    pub fn set(&self, on: bool) -> Result<(), MaintenanceError> {
        let written = if on { self.write() } else { self.remove() };
        written.map_err(|source| MaintenanceError::Unwritable { file: self.file.clone(), source })
    }

    /// A new file under another name, then that name: readers see the whole or nothing.
    fn write(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let mut draft = File::options().write(true).create(true).truncate(true).mode(0o644).open(&self.draft)?;
        draft.write_all(CONTENT)?;
        draft.sync_all()?;
        std::fs::rename(&self.draft, &self.file)?;
        File::open(&self.directory)?.sync_all()
    }

    fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.file) {
            Ok(()) => File::open(&self.directory)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On survives the value that wrote it, off is final, both may be repeated, and the directory is made when needed.
    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("lib/twinwall");
        let file = || MaintenanceFile::new(&state, "fw1");
        assert!(!file().is_on().unwrap());
        file().set(false).unwrap();
        file().set(true).unwrap();
        file().set(true).unwrap();
        assert!(file().is_on().unwrap());
        assert!(!MaintenanceFile::new(&state, "fw2").is_on().unwrap(), "each node has its own");
        let names: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["fw1.maintenance"], "no draft is left");
        file().set(false).unwrap();
        assert!(!file().is_on().unwrap());
    }

    /// A state directory that is a file is refused in words that name it and the key, and a draft that was left by a
    /// crash is not taken for the file.
    #[test]
    fn what_cannot_be_written_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::write(&state, "").unwrap();
        let error = MaintenanceFile::new(&state, "fw1").set(true).unwrap_err().to_string();
        assert!(error.contains("state/fw1.maintenance") && error.contains("state_directory"), "{error}");
        assert!(MaintenanceFile::new(&state, "fw1").is_on().is_err());
        std::fs::write(directory.path().join("fw1.maintenance.new"), "").unwrap();
        assert!(!MaintenanceFile::new(directory.path(), "fw1").is_on().unwrap());
    }
}
