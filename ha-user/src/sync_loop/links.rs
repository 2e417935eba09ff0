//! The sync links: what the kernel says of their interfaces goes to the sockets and to the engine.

use super::{PEERS, SyncLoop, SyncLoopError};
use crate::clock;
use crate::config::Resolved;
use crate::config::links::Link;
use crate::link::Links;
use crate::peer::{LinkSettings, PeerSockets, Presence, Settings};
use ha_common::election::InterfaceId;
use ha_common::role::NodeId;
use ha_common::sync::{Input, LinkId};
use std::collections::HashSet;
use std::net::IpAddr;

/// The sockets of a node with these peers, which know their interfaces and are not open yet, and the watch over the interfaces.
pub(super) fn open(config: &Resolved, peers: &[NodeId]) -> Result<(PeerSockets, Links), SyncLoopError> {
    let links = config.sync_links();
    let names: Vec<_> = links.iter().map(|link| link.interface.clone()).collect();
    let transport = &config.sync.transport;
    let of_link = |link: &Link| LinkSettings {
        interface: link.interface.clone(),
        local: address(link, config.node),
        peers: peers.iter().map(|peer| address(link, *peer)).collect(),
    };
    let settings = Settings {
        links: links.iter().map(of_link).collect(),
        port: config.sync.port,
        group: transport.group,
        receive_buffer: transport.receive_buffer,
        send_buffer: transport.send_buffer,
    };
    Ok((PeerSockets::new(settings), Links::open(&names, HashSet::new())?))
}

/// Every node of a checked configuration has an address on each link; the unspecified one would only fail to bind.
fn address(link: &Link, node: NodeId) -> IpAddr {
    link.addresses.get(usize::from(node.0)).copied().unwrap_or(IpAddr::from([0; 4]))
}

impl SyncLoop {
    /// The kernel reports a change of interfaces.
    pub(super) fn on_links(&mut self) {
        if let Err(error) = self.links.receive(&mut Vec::new()) {
            tracing::warn!(%error, "what happens to the sync links is seen late");
        }
        self.look_after_sockets();
    }

    /// Opens the sockets that are not open, or anew when their interface was re-created, and tells the engine which links
    /// have a carrier and what they carry.
    pub(super) fn look_after_sockets(&mut self) {
        for id in 0..u8::try_from(self.socket_complaints.len()).unwrap_or(u8::MAX) {
            let link = self.links.interface(InterfaceId(id));
            let presence = link.ifindex.map(|index| Presence { index, mtu: usize::try_from(link.mtu).unwrap_or(0) });
            self.attach(LinkId(id), presence);
            let up = link.state.up && self.socket.is_open(LinkId(id));
            self.engine.handle(clock::now(), Input::Link { link: LinkId(id), up }, &mut self.actions);
        }
        self.tell_frame_bytes();
    }

    /// Tells the engine when the largest datagram has changed.
    pub(super) fn tell_frame_bytes(&mut self) {
        let bytes = self.socket.datagram_bytes_max();
        if std::mem::replace(&mut self.frame_bytes, bytes) != bytes {
            tracing::info!(bytes, "the size of sync datagrams has changed");
            self.engine.handle(clock::now(), Input::FrameBytes(bytes), &mut self.actions);
        }
    }

    fn attach(&mut self, link: LinkId, presence: Option<Presence>) {
        let complaint = match self.socket.attach(link, presence) {
            Ok(fresh) => {
                if fresh {
                    self.watch_sockets();
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let Some(before) = self.socket_complaints.get_mut(usize::from(link.0)) else { return };
        if let Some(text) = complaint.as_ref().filter(|_| *before != complaint) {
            tracing::warn!("{text}; trying again each second");
        }
        *before = complaint;
    }

    fn watch_sockets(&mut self) {
        self.looks_at_peers = true;
        for fd in self.socket.fds() {
            // One that was watched already may have been paused.
            let watched = self.poller.watch(fd, PEERS).and_then(|()| self.poller.pause(fd, PEERS, false));
            if let Err(error) = watched {
                tracing::error!(%error, "cannot poll the sync socket");
            }
        }
    }

    /// The interface of a link.
    pub(super) fn link_name(&self, link: LinkId) -> String {
        self.config.sync_links().get(usize::from(link.0)).map_or_else(String::new, |link| link.interface.clone())
    }
}
