//! The peers on the sync links: sealed datagrams in and out of UDP sockets, one link beside the other.
//!
//! Nothing here is fatal. A missing interface or address is tried again, a failed send is counted, and the
//! sync engine repairs what was lost. Which link a datagram takes is the engine's decision.

mod batch;
mod port;

use batch::Batch;
use ha_common::sync::{LinkId, LinkSet};
use port::Port;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// Largest datagram sent: that of a jumbo frame.
pub const DATAGRAM_BYTES_MAX: usize = 9000 - IPV4_UDP_BYTES;
const IPV4_UDP_BYTES: usize = 20 + 8;
const IPV6_UDP_BYTES: usize = 40 + 8;
/// The MTU assumed while no interface exists, that of Ethernet.
const DEFAULT_MTU: usize = 1500;
/// Smallest datagram worth sending, whatever the interface says: 1280, the least MTU of IPv6, minus headers.
const DATAGRAM_BYTES_MIN: usize = 1280 - IPV6_UDP_BYTES;
/// Bytes of consecutive datagrams in one call; IPv4 carries 65,507 at the most.
const RUN_BYTES_MAX: usize = 64_000;

/// Why a socket could not be made; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the sync interface {interface} does not exist")]
    Interface { interface: String },
    #[error("cannot open a UDP socket: {0}")]
    Open(io::Error),
    #[error("cannot bind the sync socket to {address}: {source} (is the address on {interface}, and free?)")]
    Bind { address: SocketAddr, interface: String, source: io::Error },
    #[error("cannot join {group} on {interface}: {source} (is the link up, and does it do multicast?)")]
    Join { group: IpAddr, interface: String, source: io::Error },
}

/// All that the sockets must know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// By [`LinkId`].
    pub links: Vec<LinkSettings>,
    pub port: u16,
    /// Datagrams go to this group and not to the peers' addresses.
    pub group: Option<IpAddr>,
    /// Bytes; beyond net.core.rmem_max and wmem_max as well, with CAP_NET_ADMIN.
    pub receive_buffer: usize,
    pub send_buffer: usize,
}

/// One link, by addresses.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    pub interface: String,
    pub local: IpAddr,
    /// In the order in which [`Outgoing::peer`] counts.
    pub peers: Vec<IpAddr>,
}

/// A datagram on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub peer: usize,
    /// It goes over each of these.
    pub links: LinkSet,
    pub bytes: Vec<u8>,
}

/// An interface as the kernel shows it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    pub index: u32,
    pub mtu: usize,
}

/// What went in and out, ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSocketStats {
    /// Datagrams whose source is not a configured peer: dropped.
    pub strangers: u64,
    /// Datagrams not sent and reads that failed, by errno (ENOTCONN: the socket was not open).
    pub errors: BTreeMap<i32, u64>,
    /// By [`LinkId`].
    pub links: Vec<LinkSocketStats>,
}

/// What went in and out on one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSocketStats {
    pub sent: u64,
    pub received: u64,
    /// Calls that sent them: less than `sent` where the kernel cuts one buffer into datagrams (UDP_SEGMENT).
    pub send_calls: u64,
}

/// The sync sockets.
pub struct PeerSockets {
    settings: Settings,
    links: Vec<Link>,
    batch: Batch,
    /// Reused memory: datagrams that leave in one call.
    run: Vec<u8>,
    stats: PeerSocketStats,
}

#[derive(Default)]
struct Link {
    presence: Option<Presence>,
    /// The kernel refused a datagram that the MTU should have carried: small ones until the MTU changes.
    refused_size: bool,
    open: Option<Open>,
}

struct Open {
    /// Bound to the own address: sends, and receives what is sent to this node alone.
    unicast: Port,
    /// Bound to the group.
    group: Option<Port>,
    /// By peer; the group's alone with multicast.
    destinations: Vec<SocketAddr>,
}

impl Open {
    fn ports(&self) -> impl Iterator<Item = &Port> {
        [&self.unicast].into_iter().chain(&self.group)
    }
}

impl PeerSockets {
    /// For datagrams on these links between exactly these addresses; opens nothing yet.
    pub fn new(settings: Settings) -> Self {
        let links = settings.links.iter().map(|_| Link::default()).collect();
        let stats = settings.links.iter().map(|_| LinkSocketStats::default()).collect();
        Self {
            settings,
            links,
            batch: Batch::new(),
            run: Vec::new(),
            stats: PeerSocketStats { links: stats, ..PeerSocketStats::default() },
        }
    }

    /// The largest UDP payload that every link carries in one packet, now.
    pub fn datagram_bytes_max(&self) -> usize {
        let payloads = self.links.iter().zip(&self.settings.links).filter_map(|(link, settings)| {
            let presence = link.presence?;
            Some(if link.refused_size { DATAGRAM_BYTES_MIN } else { payload(presence.mtu, settings.local) })
        });
        let of_none =
            || self.settings.links.first().map_or(DATAGRAM_BYTES_MIN, |link| payload(DEFAULT_MTU, link.local));
        payloads.min().unwrap_or_else(of_none)
    }

    /// Takes note of a link's interface (`None`: there is none) and opens the sockets if they are not open, and again if the
    /// interface was re-created. True when they are new ones, whose descriptors must be polled.
    ///
    /// # Errors
    /// Why they cannot be opened now.
    pub fn attach(&mut self, link: LinkId, presence: Option<Presence>) -> Result<bool, PeerError> {
        let at = usize::from(link.0);
        let (Some(state), Some(settings)) = (self.links.get_mut(at), self.settings.links.get(at)) else {
            return Ok(false);
        };
        let before = std::mem::replace(&mut state.presence, presence);
        if before.map(|presence| presence.mtu) != presence.map(|presence| presence.mtu) {
            state.refused_size = false;
            // A kernel that found a segment larger than the MTU may have said that it cannot segment: ask again.
            state.open.iter_mut().for_each(|open| open.unicast.forget_refusals());
        }
        if before.map(|presence| presence.index) != presence.map(|presence| presence.index) {
            state.open = None;
        }
        if state.open.is_some() {
            return Ok(false);
        }
        let presence = presence.ok_or_else(|| PeerError::Interface { interface: settings.interface.clone() })?;
        state.open = Some(open(&self.settings, settings, presence.index)?);
        Ok(true)
    }

    /// Whether the link's sockets are open.
    pub fn is_open(&self, link: LinkId) -> bool {
        self.links.get(usize::from(link.0)).is_some_and(|link| link.open.is_some())
    }

    /// The interface of a link as it was last seen.
    pub fn presence(&self, link: LinkId) -> Option<Presence> {
        self.links.get(usize::from(link.0))?.presence
    }

    /// The descriptors to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().filter_map(|link| link.open.as_ref()).flat_map(Open::ports).map(Port::fd)
    }

    /// Hands the peers' datagrams that wait to `sink`, at most one batch of each socket: what they cause,
    /// acknowledgements above all, must not wait for more. True when more may wait.
    pub fn read(&mut self, mut sink: impl FnMut(LinkId, &[u8])) -> bool {
        let Self { settings, links, batch, stats, .. } = self;
        let mut more = false;
        for ((id, link), own) in (0u8..).zip(links.iter()).zip(&settings.links) {
            for port in link.open.iter().flat_map(Open::ports) {
                match batch.receive(port) {
                    Ok(full) => more |= full,
                    Err(error) => {
                        if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                            count_error(stats, &error);
                        }
                        continue;
                    }
                }
                for (source, bytes) in batch.datagrams() {
                    if source.port() != settings.port || !own.peers.contains(&source.ip()) {
                        stats.strangers += 1;
                        continue;
                    }
                    if let Some(stats) = stats.links.get_mut(usize::from(id)) {
                        stats.received += 1;
                    }
                    sink(LinkId(id), bytes);
                }
            }
        }
        more
    }

    /// Sends datagrams in order, each over its links. What cannot be sent now is counted and lost.
    ///
    /// Consecutive ones of one size to one peer leave in one call, the last of them may be shorter: the kernel or the card
    /// cuts them apart, where it can.
    pub fn send(&mut self, datagrams: &[Outgoing]) {
        for at in 0..self.links.len() {
            let Ok(id) = u8::try_from(at) else { return };
            let mut rest = datagrams;
            while let Some((first, others)) = rest.split_first() {
                if !first.links.has(LinkId(id)) {
                    rest = others;
                    continue;
                }
                let most =
                    self.links.get(at).and_then(|link| link.open.as_ref()).map_or(1, |open| open.unicast.run_max());
                let count = run_length(rest, LinkId(id), most);
                let (run, others) = rest.split_at(count);
                self.send_run(at, run);
                rest = others;
            }
        }
    }

    pub fn stats(&self) -> &PeerSocketStats {
        &self.stats
    }

    fn send_run(&mut self, at: usize, run: &[Outgoing]) {
        let Some(first) = run.first() else { return };
        self.run.clear();
        run.iter().for_each(|datagram| self.run.extend_from_slice(&datagram.bytes));
        match self.transmit(at, first.peer, &self.run, first.bytes.len()) {
            Ok(()) => self.count_sent(at, run.len()),
            Err(_) if run.len() > 1 => {
                // Where segments are refused (EIO, EINVAL), the port does not join them again.
                for datagram in run {
                    match self.transmit(at, datagram.peer, &datagram.bytes, datagram.bytes.len()) {
                        Ok(()) => self.count_sent(at, 1),
                        Err(error) => self.not_sent(at, &error),
                    }
                }
            }
            Err(error) => self.not_sent(at, &error),
        }
    }

    fn transmit(&self, at: usize, peer: usize, bytes: &[u8], segment: usize) -> io::Result<()> {
        let open = self.links.get(at).and_then(|link| link.open.as_ref());
        let open = open.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))?;
        let destination = open.destinations.get(peer);
        let destination = destination.ok_or_else(|| io::Error::from_raw_os_error(libc::EDESTADDRREQ))?;
        open.unicast.send(*destination, bytes, segment)
    }

    fn count_sent(&mut self, at: usize, datagrams: usize) {
        if let Some(stats) = self.stats.links.get_mut(at) {
            stats.sent += datagrams as u64;
            stats.send_calls += 1;
        }
    }

    fn not_sent(&mut self, at: usize, error: &io::Error) {
        count_error(&mut self.stats, error);
        if error.raw_os_error() == Some(libc::EMSGSIZE)
            && let Some(link) = self.links.get_mut(at)
        {
            link.refused_size = true;
        }
    }
}

/// How many datagrams at the front go out in one call on the link.
fn run_length(datagrams: &[Outgoing], link: LinkId, most: usize) -> usize {
    let Some(first) = datagrams.first() else { return 0 };
    let size = first.bytes.len();
    let fitting = RUN_BYTES_MAX / size.max(1);
    let limit = most.min(fitting).max(1);
    let mut count = 1;
    for datagram in datagrams.iter().skip(1).take(limit - 1) {
        if datagram.peer != first.peer || !datagram.links.has(link) || datagram.bytes.len() > size {
            break;
        }
        count += 1;
        if datagram.bytes.len() < size {
            break;
        }
    }
    count
}

fn open(settings: &Settings, link: &LinkSettings, index: u32) -> Result<Open, PeerError> {
    let unicast = Port::bound(settings, link, link.local, index)?;
    let peers = || link.peers.iter().map(|peer| port::scoped(*peer, settings.port, index));
    let (group, destinations) = match settings.group {
        None => (None, peers().collect()),
        Some(group) => {
            unicast.send_to_group(link, index)?;
            let to_group = port::scoped(group, settings.port, index);
            (Some(Port::joined(settings, link, group, index)?), peers().map(|_| to_group).collect())
        }
    };
    Ok(Open { unicast, group, destinations })
}

/// The UDP payload of a packet on a link of this MTU.
fn payload(mtu: usize, local: IpAddr) -> usize {
    let headers = if local.is_ipv4() { IPV4_UDP_BYTES } else { IPV6_UDP_BYTES };
    mtu.saturating_sub(headers).clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX)
}

fn count_error(stats: &mut PeerSocketStats, error: &io::Error) {
    *stats.errors.entry(error.raw_os_error().unwrap_or(0)).or_default() += 1;
}

#[cfg(test)]
mod tests;
