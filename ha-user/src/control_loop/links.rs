//! What the kernel says of the interfaces, and when the election is told: a link that came back counts after a delay.

use super::{ControlError, ControlLoop, Failure, LISTENERS};
use crate::clock;
use crate::damper::Carrier;
use crate::datapath;
use crate::link::Change;
use ha_common::election::{Input, InterfaceId, LinkState};
use ha_common::time::{Instant, earliest};

impl ControlLoop {
    pub(super) fn read_links(&mut self) -> Result<(), ControlError> {
        let mut changes = Vec::new();
        self.links.receive(&mut changes)?;
        let mut removed = None;
        for id in self.ids() {
            if changes.contains(&Change::Interface(id)) {
                self.interface_changed(id)?;
            }
        }
        for change in changes {
            match change {
                Change::Interface(_) => {}
                Change::VirtualAddressRemoved { interface, address } => removed = Some((interface, Some(address))),
                Change::RouteRemoved { interface } => removed = Some((interface, None)),
            }
        }
        if let Some((interface, address)) = removed {
            self.repair(interface, address);
        }
        Ok(())
    }

    /// Brings every edge up to date with an interface, and then the election.
    pub(super) fn interface_changed(&mut self, id: InterfaceId) -> Result<(), ControlError> {
        let link = self.links.interface(id);
        let Some(watched) = self.interfaces.get_mut(usize::from(id.0)) else { return Ok(()) };
        let is_other = std::mem::replace(&mut watched.ifindex, link.ifindex) != link.ifindex;
        let is_new = is_other && link.ifindex.is_some();
        // Also for a changed hardware address: answers to heartbeats bear it.
        self.datapath.attach(id);
        self.path_changed(id, link.ifindex, link.state.up);
        if usize::from(id.0) >= self.config.interfaces.len() {
            // The sync link has a program, but neither adverts nor addresses.
            self.link_observed(id, clock::now());
            return Ok(());
        }
        if is_new && let Err(error) = self.keep_secondaries(id) {
            tracing::warn!(%error, "virtual addresses may take others along");
        }
        let listen = !self.datapath.attachment(id).is_some_and(datapath::Attachment::is_xdp);
        for error in self.adverts.set_interface(id, link.ifindex.map(|ifindex| (ifindex, link.mac)), listen) {
            self.failures.count(Failure::of(&error));
            tracing::warn!(%error, "adverts are impaired");
        }
        if let Some(listener) = self.adverts.listener(id) {
            self.poller.watch(listener, LISTENERS + u64::from(id.0)).map_err(ControlError::Poll)?;
        }
        self.link_observed(id, clock::now());
        if is_new {
            self.interface_replaced(id);
        }
        Ok(())
    }

    /// Lets links count as changed whose delay is over, and tells the election.
    pub(super) fn settle_links(&mut self) {
        let now = clock::now();
        for id in self.ids() {
            let Some(watched) = self.interfaces.get_mut(usize::from(id.0)) else { continue };
            if watched.damper.settle(now) {
                self.tell_link(id);
            }
        }
    }

    /// When [`Self::settle_links`] is wanted.
    pub(super) fn links_at(&self) -> Option<Instant> {
        self.interfaces.iter().fold(None, |at, watched| earliest(at, watched.damper.poll_at()))
    }

    /// Takes what the kernel says of a link, and tells the election what counts.
    fn link_observed(&mut self, id: InterfaceId, now: Instant) {
        let link = self.links.interface(id);
        let Some(watched) = self.interfaces.get_mut(usize::from(id.0)) else { return };
        let was_up = watched.damper.is_up();
        watched.damper.observe(Carrier::of(link.ifindex.is_some(), link.state.up), now);
        if let Some(due) = watched.damper.poll_at()
            && !was_up
        {
            let delay_ms = due.since(now).as_millis();
            tracing::info!(interface = watched.name, delay_ms, "the link is back; it counts as up after a delay");
        }
        self.tell_link(id);
    }

    fn tell_link(&mut self, id: InterfaceId) {
        if usize::from(id.0) >= self.config.interfaces.len() {
            return;
        }
        let up = self.link_counts_as_up(id);
        let state = LinkState { up, ..self.links.interface(id).state };
        self.feed(Input::Link { interface: id, state });
    }

    pub(super) fn link_flaps(&self, id: InterfaceId, now: Instant) -> bool {
        self.interfaces.get(usize::from(id.0)).is_some_and(|watched| watched.damper.is_flapping(now))
    }

    pub(super) fn link_counts_as_up(&self, id: InterfaceId) -> bool {
        self.interfaces.get(usize::from(id.0)).is_some_and(|watched| watched.damper.is_up())
    }
}
