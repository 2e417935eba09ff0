//! What peers' datagrams do, and their silence: refusal or effect, the begin and the end of a session.

use super::engine::Engine;
use super::modes::Mode;
use super::peer::bit;
use super::prove::Prover;
use super::session::{Greeting, role_value};
use super::table::{Entry, Flags, Owner};
use super::{Action, Event, LinkId};
use crate::proto;
use crate::reason::DropReason;
use crate::role::Role;
use crate::time::Instant;
use crate::wire::frame::{Header, Kind};
use prost::Message;

impl Engine {
    pub(super) fn on_datagram(
        &mut self,
        now: Instant,
        link: LinkId,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        if !header.is_for(self.node.0) {
            return Err(DropReason::FrameTarget);
        }
        let sender = self.peers.iter().position(|peer| peer.node.0 == header.sender);
        let index = sender.ok_or(DropReason::FrameSender)?;
        if !self.keyring.holds(header.key_epoch) {
            return Err(DropReason::FrameKeyEpoch);
        }
        let taken = match header.kind {
            Kind::Hello => self.on_hello(now, (index, link), &header, bytes, out),
            Kind::Data => self.on_data_frame(now, index, &header, bytes, out),
            Kind::Ack => self.on_ack_frame(now, index, &header, bytes, out),
        };
        if let Some(peer) = self.peers.get_mut(index) {
            if taken == Err(DropReason::FrameReplay) && peer.links.take_copy(now, link, header.kind, header.sequence) {
                return Err(DropReason::FrameCopy);
            }
            taken?;
            // The hello of a stranger proves nothing yet: it may be a recorded one.
            if peer.session.peer_session() == header.session {
                peer.links.heard(now, link, header.kind, header.sequence);
            }
            peer.counters.frames_received += 1;
            peer.counters.bytes_received += bytes.len() as u64;
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        now: Instant,
        (index, link): (usize, LinkId),
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get(index).ok_or(DropReason::FrameSender)?;
        if peer.session.peer_session() == header.session && peer.links.has_taken_hello(link, header.sequence) {
            return Err(DropReason::FrameReplay);
        }
        let hello = proto::Hello::decode(self.keyring.open_hello(header.key_epoch, bytes)?)
            .map_err(|_| DropReason::FrameBody)?;
        let peer = self.peers.get_mut(index).ok_or(DropReason::FrameSender)?;
        let greeting = peer.session.on_hello(&self.keyring, header, &hello)?;
        match greeting {
            Greeting::Stranger(stranger) => {
                peer.answer_stranger(stranger);
                return Ok(());
            }
            Greeting::New => {
                self.begin_session(now, index, out);
            }
            Greeting::Known { answer: true } => peer.hello_soon(),
            Greeting::Known { answer: false } => {}
        }
        self.clock = self.clock.max(hello.clock);
        let recent = self.transfer_classes();
        let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
        peer.links.confirmed(hello.links_heard);
        peer.wanted_by_peer = hello.bulk_wanted;
        let before = core::mem::replace(&mut peer.role, role_value(&hello));
        peer.clock = hello.clock;
        if peer.up {
            // Not only a higher number: the peer counts from one again in a new session, and the transfer may have begun
            // for a hello of the old one.
            if peer.wanted_by_peer != peer.outbox.bulk.answers() {
                peer.start_bulk(self.role == Role::Master, &self.table, recent);
            } else if self.mode == Mode::Notrack && !hello.in_sync {
                // It may have lost the one frame that says that the transfer is complete.
                peer.outbox.bulk.announce_again();
            }
            self.on_peer_role(now, index, before);
        }
        self.on_heard(now, index, out);
        Ok(())
    }

    fn on_data_frame(
        &mut self,
        now: Instant,
        index: usize,
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(index).ok_or(DropReason::FrameSender)?;
        let keys = peer.session.keys_for(header)?;
        peer.inbox.data.check(header.sequence)?;
        keys.open(header, bytes, &mut self.body)?;
        let mut data = core::mem::take(&mut self.incoming);
        data.clear();
        let decoded = data.merge(self.body.as_slice());
        if decoded.is_ok() {
            peer.session.on_sealed();
            let id = peer.id;
            // A transfer may have to begin before what it is about arrives.
            self.on_heard(now, index, out);
            if let Some(peer) = self.peers.get_mut(index) {
                peer.inbox.on_data(now, header.sequence, &data);
            }
            self.on_data(now, id, header.sequence, &data, out);
            // Only now: this frame may be the late one that a removal was remembered for.
            if let Some(peer) = self.peers.get_mut(index) {
                peer.inbox.release(&mut self.table);
            }
        }
        self.incoming = data;
        decoded.map_err(|_| DropReason::FrameBody)
    }

    fn on_ack_frame(
        &mut self,
        now: Instant,
        index: usize,
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(index).ok_or(DropReason::FrameSender)?;
        let keys = peer.session.keys_for(header)?;
        peer.inbox.acks.check(header.sequence)?;
        keys.open(header, bytes, &mut self.body)?;
        let ack = proto::Ack::decode(self.body.as_slice()).map_err(|_| DropReason::FrameBody)?;
        peer.inbox.acks.accept(header.sequence);
        peer.session.on_sealed();
        if let Some(flows) = peer.outbox.on_ack(now, &ack, &mut self.table, &mut peer.inbox) {
            let (peer, repair) = (peer.id, peer.outbox.bulk.is_repair());
            out.push(Action::Event(if repair {
                Event::RepairSent { peer, flows }
            } else {
                Event::BulkSent { peer, flows }
            }));
        }
        self.on_heard(now, index, out);
        Ok(())
    }

    /// The peer has started anew: nothing of its former session counts any more.
    pub(super) fn begin_session(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        self.peer_down(now, index, out);
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.inbox = peer.inbox.renewed();
        peer.links.begin_session();
        peer.prover = Prover::new();
        peer.wanted = 1;
        peer.hello_soon();
        let id = peer.id;
        for slot in 0..self.table.slots() {
            let is_its = |entry: &&mut Entry| entry.is_owned_by(id) || entry.owner() == Owner::Found;
            if let Some(entry) = self.table.get_mut(slot).filter(is_its) {
                // Its clock began anew as well: any word of the new session is newer, also of what it has just left to nobody. So did
                // its transfers: an epoch of the old session must not pass for one of the new.
                entry.epoch = 0;
                entry.flags.clear(Flags::GIVEN);
                self.table.set_version(slot, 0);
            }
        }
    }

    /// Something authentic of the current session came.
    pub(super) fn on_heard(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        let recent = self.transfer_classes();
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.heard = now;
        if peer.up || !peer.session.is_mutual() {
            return;
        }
        peer.up = true;
        let session = peer.session.peer_session();
        if core::mem::replace(&mut peer.up_session, session) == session {
            // The same session after a silence: what was said meanwhile is lost.
            peer.wanted += 1;
        }
        peer.hello_soon();
        peer.start_bulk(self.role == Role::Master, &self.table, recent);
        let (id, master) = (peer.id, peer.role == Role::Master);
        // Words of an earlier mastership than this node has had may have waited while it stood still.
        let is_later = peer.clock >= self.later_from;
        out.push(Action::Event(Event::PeerUp { peer: id, session }));
        if master && self.role != Role::Master {
            // What this node holds from a time as master is worth less than anything a later master says.
            self.hand_over(now, id, is_later.then_some(0));
        }
    }

    pub(super) fn peer_down(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if core::mem::take(&mut peer.up) {
            out.push(Action::Event(Event::PeerDown { peer: peer.id, silent: now.since(peer.heard) }));
        }
        peer.outbox.reset(&mut self.table);
        peer.inbox.release_all(&mut self.table);
        peer.inbox.rounds.clear();
        let id = peer.id;
        for slot in 0..self.table.slots() {
            if let Some(entry) = self.table.get_mut(slot) {
                entry.dirty &= !bit(id);
                entry.owed &= !bit(id);
                self.table.bury(slot);
            }
        }
        if self.role == Role::Master {
            self.adopt_from(now, id, out);
        }
    }

    fn on_peer_role(&mut self, now: Instant, index: usize, before: Role) {
        let Some(peer) = self.peers.get(index) else { return };
        let (id, role) = (peer.id, peer.role);
        self.relax_after_dual_mastership(before, role);
        if before != Role::Master && role == Role::Master && self.role != Role::Master {
            self.hand_over(now, id, None);
        }
    }
}
