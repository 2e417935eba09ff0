//! Adverts come in: through XDP's ring, or by sockets where there is no XDP.

use super::ControlLoop;
use crate::advert_socket::Heard;
use crate::clock;
use ha_common::election::{Input, InterfaceId, ReceivedAdvert};
use ha_common::reason::DropReason;

/// Adverts judged before a deadline is: all that the ring can hold, so that a flood cannot hide the master's advert
/// from a deadline that it has met.
const ADVERTS_MAX: usize = 4096;
/// Frames taken from one socket at one wake-up.
const FRAMES_MAX: usize = 1024;

impl ControlLoop {
    pub(super) fn read_ring(&mut self) {
        for _ in 0..ADVERTS_MAX {
            let Some(advert) = self.datapath.next_advert() else { return };
            self.feed(Input::Advert(&advert));
        }
    }

    pub(super) fn read_listener(&mut self, id: InterfaceId) {
        for _ in 0..FRAMES_MAX {
            let Some(heard) = self.adverts.receive(id) else { return };
            self.counters.packet(id);
            match heard {
                Heard::Advert { source, destination, advert } => match self.counters.member(id, advert.vhid) {
                    Some(member) => {
                        self.counters.advert(id, member);
                        let received = clock::now();
                        self.feed(Input::Advert(&ReceivedAdvert { member, source, destination, advert, received }));
                    }
                    None => self.counters.advert_refused(id, advert.vhid, DropReason::VhidUnknown),
                },
                Heard::Refused { vhid, reason } => self.counters.advert_refused(id, vhid.unwrap_or(0), reason),
            }
        }
    }
}
