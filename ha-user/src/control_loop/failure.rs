//! What failed at the loop's edges, beside the addresses and routes, which count for themselves.

use crate::advert_socket::AdvertSocketError;

/// Names are metric labels, in one family with those of [`crate::vip::Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    AdvertSend,
    Announce,
    GroupJoin,
    Listen,
    UnicastSocket,
    PacketSocket,
    /// The sync loop's mailbox was full when the role changed.
    SyncMailbox,
    /// The mailbox of the hooks was full when the role changed.
    HookMailbox,
    /// An advert or announcement was not sent, because the lease ended while this process was stopped.
    LeaseOver,
}

impl Failure {
    pub const ALL: [Self; 9] = [
        Self::AdvertSend,
        Self::Announce,
        Self::GroupJoin,
        Self::Listen,
        Self::UnicastSocket,
        Self::PacketSocket,
        Self::SyncMailbox,
        Self::HookMailbox,
        Self::LeaseOver,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::AdvertSend => "advert_send",
            Self::Announce => "announce",
            Self::GroupJoin => "group_join",
            Self::Listen => "listen",
            Self::UnicastSocket => "unicast_socket",
            Self::PacketSocket => "packet_socket",
            Self::SyncMailbox => "sync_mailbox_full",
            Self::HookMailbox => "hook_mailbox_full",
            Self::LeaseOver => "lease_over",
        }
    }

    /// What an error of the advert sockets counts as.
    pub fn of(error: &AdvertSocketError) -> Self {
        match error {
            AdvertSocketError::Open(_) => Self::PacketSocket,
            AdvertSocketError::Join { .. } => Self::GroupJoin,
            AdvertSocketError::Unicast { .. } => Self::UnicastSocket,
            AdvertSocketError::Listen { .. } => Self::Listen,
            AdvertSocketError::Send { .. } => Self::AdvertSend,
        }
    }
}

/// Counters by failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failures([u64; Failure::ALL.len()]);

impl Failures {
    pub fn count(&mut self, failure: Failure) {
        self.add(failure, 1);
    }

    pub fn add(&mut self, failure: Failure, by: u64) {
        if let Some(counter) = self.0.get_mut(failure as usize) {
            *counter = counter.saturating_add(by);
        }
    }

    /// Every failure with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Failure, u64)> {
        Failure::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position in the list is the position of the counter, and every name is used once.
    #[test]
    fn counters_are_in_their_places() {
        let mut failures = Failures::default();
        for (position, failure) in (1..).zip(Failure::ALL) {
            failures.add(failure, position);
        }
        let counted: Vec<u64> = failures.iter().map(|(_, count)| count).collect();
        assert_eq!(counted, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for failure in Failure::ALL {
            assert_eq!(Failure::ALL.iter().filter(|other| other.name() == failure.name()).count(), 1);
        }
    }
}
