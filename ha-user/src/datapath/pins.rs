//! What outlives the process: links and the maps `SELF` and `FENCE`, pinned in a BPF file system.
//!
//! A killed daemon's programs stay: they answer heartbeats, and the lease ends by itself. The next start takes the
//! links over by exchanging the program in them, so that no packet meets an interface without program.

use super::pod::Shared;
use crate::config::Resolved;
use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use ha_common::abi::{FenceEntry, PIN_LAYOUT, SelfEntry};
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where distributions mount the BPF file system.
const BPF_DIRECTORY: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// The network namespace of this thread: interface indices mean something in it only.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Maps that are pinned.
pub const MAPS: [&str; 2] = ["SELF", "FENCE"];
const LINK_PREFIX: &str = "link-";

/// Why nothing is pinned, or something is not.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{} is not on a BPF file system: `mount -t bpf bpf {BPF_DIRECTORY}`, or set pin_directory", directory.display())]
    NoBpfFs { directory: PathBuf },
    #[error("cannot use {}: {source} (is pin_directory writable for the daemon's user?)", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot tell the network namespace: {0} (is /proc mounted?)")]
    Namespace(#[source] io::Error),
}

/// How a pinned link is attached; the kernel does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMode {
    Native,
    Generic,
}

impl LinkMode {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What an earlier process left of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    pub entry: SelfEntry,
    pub fence: FenceEntry,
}

/// The pins of one node in one network namespace.
pub struct Pins {
    /// Holds one directory for each layout.
    home: PathBuf,
    current: PathBuf,
}

/// Mounts the BPF file system where it belongs, if it is missing there and `directory` needs it. Before privileges are
/// dropped: mounting needs CAP_SYS_ADMIN. What fails shows when something is to be pinned.
pub fn mount_file_system(directory: &Path) {
    if !directory.starts_with(BPF_DIRECTORY) || !Path::new(BPF_DIRECTORY).is_dir() || is_bpf_fs(BPF_DIRECTORY.as_ref())
    {
        return;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("bpf", BPF_DIRECTORY, "bpf", flags, Some(c"mode=0700")) {
        Ok(()) => tracing::info!(directory = BPF_DIRECTORY, "BPF file system mounted"),
        Err(error) => tracing::debug!(%error, directory = BPF_DIRECTORY, "cannot mount the BPF file system"),
    }
}

/// Where this node's pins are, before the namespace and the layout; `None` when nothing shall be pinned.
pub fn directory_of(config: &Resolved) -> Option<PathBuf> {
    // The file system keeps names with dots for itself.
    Some(config.pin_directory.as_ref()?.join(config.own_name().replace('.', "_")))
}

impl Pins {
    /// Opens, and if need be makes, the directory of this node's pins in this network namespace.
    ///
    /// # Errors
    /// When there is no BPF file system, or it does not let this process in.
    pub fn open(node_directory: &Path) -> Result<Self, PinError> {
        let namespace = fs::metadata(NAMESPACE).map_err(PinError::Namespace)?.ino();
        let home = node_directory.join(format!("net-{namespace}"));
        let existing = home.ancestors().find(|ancestor| ancestor.is_dir());
        if !existing.is_some_and(is_bpf_fs) {
            return Err(PinError::NoBpfFs { directory: node_directory.to_owned() });
        }
        let current = home.join(format!("v{PIN_LAYOUT}"));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&current);
        made.map_err(|source| PinError::Directory { path: current.clone(), source })?;
        Ok(Self { home, current })
    }

    /// Where a map of this name is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.current.join(name)
    }

    /// What the last process said of itself; `None` when there was none. Maps that are not of this layout are removed.
    pub fn inherited(&self) -> Option<Inherited> {
        let own = only_entry::<SelfEntry>(&self.map("SELF"));
        let fence = only_entry::<FenceEntry>(&self.map("FENCE"));
        match (own, fence) {
            (Ok(Shared(entry)), Ok(Shared(fence))) if entry.session != 0 => Some(Inherited { entry, fence }),
            (Ok(_), Ok(_)) => None,
            (Err(error), _) | (_, Err(error)) => {
                // One without the other means nothing.
                for path in MAPS.map(|name| self.map(name)).iter().filter(|path| path.exists()) {
                    tracing::warn!(path = %path.display(), %error, "a pinned map of another layout is removed");
                    remove(path);
                }
                None
            }
        }
    }

    /// The link of an interface that an earlier process left, of whatever layout.
    pub fn link(&self, ifindex: u32) -> Option<(PinnedLink, LinkMode)> {
        let mut candidates = self
            .layouts()
            .into_iter()
            .flat_map(|layout| LinkMode::ALL.map(|mode| (layout.join(link_name(ifindex, mode)), mode)));
        candidates.find_map(|(path, mode)| Some((PinnedLink::from_pin(path).ok()?, mode)))
    }

    /// Keeps a link beyond the process. On failure the link is gone, and with it the attachment.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn keep(&self, link: FdLink, ifindex: u32, mode: LinkMode) -> Result<FdLink, aya::pin::PinError> {
        let path = self.current.join(link_name(ifindex, mode));
        // Whatever is there is of a device that had this index before, or of this very link.
        remove(&path);
        Ok(link.pin(path)?.into())
    }

    /// Removes every pin of an interface.
    pub fn remove_link(&self, ifindex: u32) {
        for layout in self.layouts() {
            LinkMode::ALL.iter().for_each(|mode| remove(&layout.join(link_name(ifindex, *mode))));
        }
    }

    /// Removes what belongs to other layouts, and links of interfaces other than these.
    pub fn keep_only(&self, interfaces: &[(u32, LinkMode)]) {
        for layout in self.layouts() {
            if layout != self.current {
                remove_tree(&layout);
            }
        }
        let kept: Vec<String> = interfaces.iter().map(|(ifindex, mode)| link_name(*ifindex, *mode)).collect();
        for path in entries(&self.current) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(LINK_PREFIX) && !kept.iter().any(|kept| kept == name) {
                remove(&path);
            }
        }
    }

    /// Removes everything. The kernel detaches what nobody else holds.
    pub fn remove_all(&self) {
        remove_tree(&self.home);
        // Only when no other namespace has pins of this node: a directory that is not empty stays.
        let _ = self.home.parent().map(fs::remove_dir);
    }

    fn layouts(&self) -> Vec<PathBuf> {
        entries(&self.home)
    }
}

fn link_name(ifindex: u32, mode: LinkMode) -> String {
    format!("{LINK_PREFIX}{ifindex}-{}", mode.name())
}

/// The entry of a pinned array; aya checks type, key and value, but does so for no map that it opens by itself.
fn only_entry<T: Copy + 'static>(path: &Path) -> Result<Shared<T>, MapError>
where
    Shared<T>: aya::Pod,
{
    let map = Map::from_map_data(MapData::from_pin(path)?)?;
    let array: Array<MapData, Shared<T>> = Array::try_from(map)?;
    array.get(&0, 0)
}

fn is_bpf_fs(path: &Path) -> bool {
    // The field's type differs between architectures, the magic fits in 32 bits.
    statfs(path).is_ok_and(|file_system| file_system.f_type as u32 == BPF_FS_MAGIC)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(listed) = fs::read_dir(directory) else { return Vec::new() };
    listed.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn remove_tree(directory: &Path) {
    for path in entries(directory) {
        if path.is_dir() { remove_tree(&path) } else { remove(&path) }
    }
    if let Err(error) = fs::remove_dir(directory) {
        tracing::warn!(%error, directory = %directory.display(), "cannot remove a directory of pins");
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove a pin"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is on no BPF file system is refused with the remedy, and nothing is made there.
    #[test]
    fn other_file_systems_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let node = directory.path().join("twinwall/fw1");
        let Err(error @ PinError::NoBpfFs { .. }) = Pins::open(&node) else { panic!("opened on no BPF file system") };
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!node.exists());
    }

    /// No name has a dot, which the BPF file system refuses; a switched-off directory gives none.
    #[test]
    fn names_fit_the_file_system() {
        let mut config = crate::fixture::config();
        config.nodes[1].name = "fw2.example".into();
        config.pin_directory = Some("/sys/fs/bpf/twinwall".into());
        assert_eq!(directory_of(&config).unwrap(), Path::new("/sys/fs/bpf/twinwall/fw2_example"));
        assert_eq!(link_name(7, LinkMode::Native), "link-7-native");
        config.pin_directory = None;
        assert_eq!(directory_of(&config), None);
    }
}
