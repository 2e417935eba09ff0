//! The BPF file system, and each lab's own directory in it where its daemons pin programs and maps.
//!
//! Pins outlive processes and namespaces: a directory is named after the process that made the lab, so that what a
//! killed one left behind can be removed by the next.

use crate::lab::KEPT_DIR;
use crate::netns::checked;
use crate::topology::Node;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where every system has it.
const BPFFS: &str = "/sys/fs/bpf";
/// `statfs` type of a BPF file system (`BPF_FS_MAGIC`).
const MAGIC: i64 = 0xcafe_4a11;
const PREFIX: &str = "twlab-";

/// A lab's directory of pins: the daemon adds its node's name. Dropping it detaches and removes what is pinned.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    keep: bool,
}

impl Pins {
    /// Mounts the BPF file system unless it is there, removes what dead labs have left, and makes the directory that
    /// belongs to the lab whose files are in `dir`.
    ///
    /// # Errors
    /// When the file system cannot be mounted (it needs root and a kernel with BPF) or written.
    pub fn of(dir: &Path) -> Result<Self> {
        mount()?;
        sweep_stale();
        let path = directory(dir);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    /// What a reboot or the end of a host leaves of one node's pins: nothing.
    pub fn forget(&self, node: Node) {
        let _ = fs::remove_dir_all(self.path.join(node.name()));
    }

    /// From now on dropping leaves the directory alone.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The directory of pins of the lab whose files are in `dir`: what `pin_directory` is set to.
pub fn directory(dir: &Path) -> PathBuf {
    if dir == Path::new(KEPT_DIR) {
        return Path::new(BPFFS).join(format!("{PREFIX}kept"));
    }
    let stem = dir.file_name().unwrap_or_default().to_string_lossy();
    // The BPF file system refuses names with a dot.
    let stem = stem.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    Path::new(BPFFS).join(format!("{PREFIX}{}-{stem}", std::process::id()))
}

/// Removes the pins of the kept lab.
pub fn remove_kept() {
    let _ = fs::remove_dir_all(directory(Path::new(KEPT_DIR)));
}

/// Mounts the BPF file system unless it is there.
///
/// # Errors
/// Without root, or when the kernel has no BPF.
pub fn mount() -> Result<()> {
    // Two labs at once must not mount one over the other's pins.
    let place = File::open(BPFFS).with_context(|| format!("no {BPFFS}: the kernel has no BPF"))?;
    rustix::fs::flock(&place, rustix::fs::FlockOperation::LockExclusive)?;
    if rustix::fs::statfs(BPFFS)?.f_type == MAGIC {
        return Ok(());
    }
    checked(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).map(drop).context("the lab pins BPF programs")
}

/// Removes the pins of labs whose process is gone.
fn sweep_stale() {
    for entry in fs::read_dir(BPFFS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process whose lab a directory belongs to; `None` for the kept lab and what is not ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lab's directory names its process, so that it is swept when that is gone; the kept lab's names none.
    #[test]
    fn directories_name_their_owner() {
        let own = directory(Path::new("/tmp/tw-lab.Ab12"));
        let name = own.file_name().unwrap().to_str().unwrap();
        assert_eq!(owner(name), Some(std::process::id()));
        assert!(!name.contains('.'));
        let kept = directory(Path::new(KEPT_DIR));
        assert_eq!(owner(kept.file_name().unwrap().to_str().unwrap()), None);
        assert_eq!(owner("twinwall"), None);
    }
}
