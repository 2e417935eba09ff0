//! The object that the build script made: load it, tell it the plan, keep its maps.

use super::counters::CounterMaps;
use super::heartbeat::HeartbeatMaps;
use super::keys::KeyTable;
use super::pins::{self, Pins};
use super::plan::{DatapathKey, InterfacePlan, Plan};
use super::pod::Shared;
use super::ring::AdvertRing;
use super::sessions::SessionTable;
use aya::maps::{Array, HashMap, Map, MapError, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use ha_common::abi::{self, InterfaceEntry, LinkEntry, MemberEntry, PeerEntry, VipKey};
use ha_common::election::ReceivedAdvert;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// The program for every interface.
pub const EDGE: &str = "twinwall_edge";
/// Returns XDP_PASS at once: the bench measures [`EDGE`] against it.
pub const EMPTY: &str = "twinwall_empty";

#[cfg(not(ha_bpf_stub))]
static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ha-ebpf")));
#[cfg(ha_bpf_stub)]
static OBJECT: Option<&[u8]> = None;

/// Target of the programs' log lines, and of the filter that switches them on.
const LOG_TARGET: &str = "ha_ebpf";

/// Why there is no XDP at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("built without BPF object (HA_BPF=off): build with a BPF toolchain for XDP")]
    Absent,
    #[error("cannot create the BPF maps: {0} (needs CAP_BPF or CAP_SYS_ADMIN, and Linux 5.15 or later)")]
    Object(#[from] EbpfError),
    #[error("the kernel refuses program {name}: {source} (needs CAP_BPF and CAP_NET_ADMIN)")]
    Program { name: &'static str, source: ProgramError },
    #[error("the BPF object has no program or map {0}: rebuild with `cargo xtask build`")]
    Missing(&'static str),
    #[error("cannot use BPF map {name}: {source}")]
    Map { name: &'static str, source: MapError },
}

/// The loaded programs with their maps. Dropping it unloads everything.
pub struct Programs {
    ebpf: Ebpf,
    ring: AdvertRing,
    counters: Arc<CounterMaps>,
    heartbeat: HeartbeatMaps,
    keys: KeyTable,
    sessions: Option<SessionTable>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Programs {
    /// True when this build has a BPF object.
    pub const fn are_built_in() -> bool {
        cfg!(not(ha_bpf_stub))
    }

    /// Loads programs and maps and fills in the plan; attaches nothing. With pins, the maps that are pinned are those
    /// of the process before, or are pinned now.
    ///
    /// # Errors
    /// When this build or this process has no BPF.
    pub fn load(plan: &Plan, pins: Option<&Pins>) -> Result<Self, LoadError> {
        Self::load_object(OBJECT.ok_or(LoadError::Absent)?, plan, pins)
    }

    /// The same from another object than that of this build: one that has further programs, which are not loaded yet.
    ///
    /// # Errors
    /// As [`Programs::load`].
    pub fn load_object(object: &[u8], plan: &Plan, pins: Option<&Pins>) -> Result<Self, LoadError> {
        let logs = tracing::enabled!(target: LOG_TARGET, tracing::Level::DEBUG);
        let mut ebpf = open(object, plan, pins, logs)?;
        // The logger takes its map away, and the program needs the map to be open while it is loaded.
        let logger = if logs { EbpfLogger::init(&mut ebpf).ok() } else { None };
        fill_members(&mut ebpf, plan)?;
        fill_links(&mut ebpf, plan)?;
        fill_peers(&mut ebpf, plan)?;
        fill_vips(&mut ebpf, plan)?;
        for name in [EDGE, EMPTY] {
            let program = program(&mut ebpf, name)?;
            program.load().map_err(|source| LoadError::Program { name, source })?;
        }
        let counters = Arc::new(CounterMaps {
            interfaces: take(&mut ebpf, "INTERFACE_COUNTERS", PerCpuArray::try_from)?,
            members: take(&mut ebpf, "MEMBER_COUNTERS", PerCpuArray::try_from)?,
            streams: take(&mut ebpf, "STREAMS", Array::try_from)?,
        });
        let heartbeat = HeartbeatMaps {
            own: take(&mut ebpf, "SELF", Array::try_from)?,
            fence: take(&mut ebpf, "FENCE", Array::try_from)?,
            paths: take(&mut ebpf, "PATHS", Array::try_from)?,
        };
        let mut keys = KeyTable::new(take(&mut ebpf, "KEYS", Array::try_from)?);
        keys.set(&plan.keys)?;
        let sessions = Some(SessionTable::new(take(&mut ebpf, "SESSIONS", Array::try_from)?));
        let ring = AdvertRing::new(take(&mut ebpf, "ADVERTS", RingBuf::try_from)?);
        Ok(Self { ebpf, ring, counters, heartbeat, keys, sessions, logger })
    }

    /// A program: [`EDGE`] and [`EMPTY`] are loaded.
    ///
    /// # Errors
    /// When the object has none of that name.
    pub fn program(&mut self, name: &'static str) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, name)
    }

    /// A map that is nowhere else; `None` when there is none, and from the second time on.
    pub fn take_map(&mut self, name: &str) -> Option<Map> {
        self.ebpf.take_map(name)
    }

    /// Tells the program what the interface with this index and hardware address is for.
    ///
    /// # Errors
    /// When the map refuses the entry.
    pub fn set_interface(&mut self, ifindex: u32, mac: [u8; 6], plan: &InterfacePlan) -> Result<(), LoadError> {
        let carp = if plan.members.is_empty() { 0 } else { abi::ROLE_CARP };
        let sync = plan.link.map_or(0, |_| abi::ROLE_SYNC);
        let heartbeat = plan.path.map_or(0, |_| abi::ROLE_HEARTBEAT);
        let entry = InterfaceEntry {
            slot: u16::from(plan.id.0),
            roles: carp | sync | heartbeat,
            mac,
            path: u16::from(plan.path.map_or(0, |path| path.0)),
            link: u16::from(plan.link.unwrap_or(0)),
        };
        self.write_interface(ifindex, entry)
    }

    /// The maps of heartbeats and lease.
    pub fn heartbeat(&self) -> &HeartbeatMaps {
        &self.heartbeat
    }

    /// The same, to publish in.
    pub fn heartbeat_mut(&mut self) -> &mut HeartbeatMaps {
        &mut self.heartbeat
    }

    /// Where the peers' sessions are told; `None` from the second time on.
    pub fn take_sessions(&mut self) -> Option<SessionTable> {
        self.sessions.take()
    }

    /// These secrets are valid from now on, and no other.
    ///
    /// # Errors
    /// When the map refuses an entry.
    pub fn set_keys(&mut self, keys: &[DatapathKey]) -> Result<(), LoadError> {
        self.keys.set(keys)
    }

    /// Forgets an interface that is gone.
    pub fn clear_interface(&mut self, ifindex: u32) {
        if let Err(error) = self.write_interface(ifindex, InterfaceEntry::default()) {
            tracing::warn!(ifindex, %error, "an interface that is gone stays in the BPF map");
        }
    }

    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.ring.fd()
    }

    pub fn next_advert(&mut self) -> Option<ReceivedAdvert> {
        self.ring.next()
    }

    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.logger.as_ref().map(AsFd::as_fd)
    }

    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    pub fn counter_maps(&self) -> Arc<CounterMaps> {
        Arc::clone(&self.counters)
    }

    fn write_interface(&mut self, ifindex: u32, entry: InterfaceEntry) -> Result<(), LoadError> {
        if ifindex < abi::IFINDEX_DIRECT_MAX {
            let name = "INTERFACES";
            let map = self.ebpf.map_mut(name).ok_or(LoadError::Missing(name))?;
            let written = Array::<_, Shared<InterfaceEntry>>::try_from(map)
                .and_then(|mut map| map.set(ifindex, Shared(entry), 0));
            return written.map_err(|source| LoadError::Map { name, source });
        }
        let name = "INTERFACES_HIGH";
        let map = self.ebpf.map_mut(name).ok_or(LoadError::Missing(name))?;
        let written = HashMap::<_, u32, Shared<InterfaceEntry>>::try_from(map).and_then(|mut map| {
            if entry == InterfaceEntry::default() {
                map.remove(&ifindex)
            } else {
                map.insert(ifindex, Shared(entry), 0)
            }
        });
        written.map_err(|source| LoadError::Map { name, source })
    }
}

/// Creates the maps in the sizes of the plan. Without the kernel's BTF: no program uses it, and parsing it costs 40 ms.
fn open(object: &[u8], plan: &Plan, pins: Option<&Pins>, logs: bool) -> Result<Ebpf, LoadError> {
    let members = plan.interfaces.iter().map(|interface| interface.members.len()).sum::<usize>();
    let rows = |count: usize| u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let slots = rows(plan.interfaces.iter().map(|interface| usize::from(interface.id.0) + 1).max().unwrap_or(1));
    let log_level = if logs { aya_log::Level::Debug as u8 } else { 0 };
    let heartbeat = plan.heartbeat.as_ref();
    let (node, peer) = heartbeat.map_or((0, 0), |heartbeat| (heartbeat.node.0, heartbeat.peer.0));
    let (heartbeat_on, gate_on) = (u8::from(heartbeat.is_some()), u8::from(!plan.vips.is_empty()));
    let mut loader = EbpfLoader::new();
    for name in pins::MAPS {
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let ebpf = loader
        .btf(None)
        .map_max_entries("MEMBERS", slots.saturating_mul(abi::VHIDS_PER_INTERFACE))
        .map_max_entries("INTERFACE_COUNTERS", slots)
        .map_max_entries("MEMBER_COUNTERS", rows(members))
        .override_global("SYNC_PORT", &plan.sync.port, true)
        .override_global("SYNC_NODE", &plan.sync.node.0, true)
        .map_max_entries("VIPS", rows(plan.vips.len()))
        .override_global("HEARTBEAT_ON", &heartbeat_on, true)
        .override_global("HEARTBEAT_NODE", &node, true)
        .override_global("HEARTBEAT_PEER", &peer, true)
        .override_global("GATE_ON", &gate_on, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .load(object)?;
    Ok(ebpf)
}

fn fill_members(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), LoadError> {
    let name = "MEMBERS";
    let refused = |source| LoadError::Map { name, source };
    let map = ebpf.map_mut(name).ok_or(LoadError::Missing(name))?;
    let mut members: Array<_, Shared<MemberEntry>> = Array::try_from(map).map_err(refused)?;
    for interface in &plan.interfaces {
        for (member, vhid) in &interface.members {
            let index = abi::member_index(u16::from(interface.id.0), *vhid);
            let entry = MemberEntry { known: 1, member: u16::from(member.0) };
            members.set(index, Shared(entry), 0).map_err(refused)?;
        }
    }
    Ok(())
}

fn fill_links(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), LoadError> {
    let name = "LINKS";
    let refused = |source| LoadError::Map { name, source };
    let map = ebpf.map_mut(name).ok_or(LoadError::Missing(name))?;
    let mut links: Array<_, Shared<LinkEntry>> = Array::try_from(map).map_err(refused)?;
    for (number, link) in (0..abi::LINKS_MAX).zip(&plan.sync.links) {
        links.set(number, Shared(LinkEntry::new(link.address, plan.sync.group)), 0).map_err(refused)?;
    }
    Ok(())
}

fn fill_peers(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), LoadError> {
    let name = "PEERS";
    let refused = |source| LoadError::Map { name, source };
    let map = ebpf.map_mut(name).ok_or(LoadError::Missing(name))?;
    let mut peers: Array<_, Shared<PeerEntry>> = Array::try_from(map).map_err(refused)?;
    let links = (0u16..).zip(&plan.sync.links).take(abi::LINKS_MAX as usize);
    for (number, (node, address)) in links.flat_map(|(number, link)| link.peers.iter().map(move |peer| (number, peer)))
    {
        let entry = PeerEntry::new(*address);
        peers.set(abi::peer_index(number, node.0), Shared(entry), 0).map_err(refused)?;
    }
    Ok(())
}

fn fill_vips(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), LoadError> {
    let name = "VIPS";
    let refused = |source| LoadError::Map { name, source };
    let map = ebpf.map_mut(name).ok_or(LoadError::Missing(name))?;
    let mut vips: HashMap<_, VipKey, u8> = HashMap::try_from(map).map_err(refused)?;
    for address in &plan.vips {
        vips.insert(abi::vip_key(*address), 1, 0).map_err(refused)?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|source| LoadError::Program { name, source })
}

fn take<T>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<T, MapError>,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing(name))?;
    convert(map).map_err(|source| LoadError::Map { name, source })
}
