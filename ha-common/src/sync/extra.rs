//! Attributes that few flows have; they stand beside the flow, so that the many others do not pay for them.

use super::flow::{FlowKey, Tuple};
use std::net::IpAddr;

/// Expectations remembered of one flow: with them its state still fits into one datagram. The kernel's helpers allow one
/// (FTP) to some (SIP, H.323).
pub const EXPECTATIONS_MAX: usize = 8;

/// Bytes of a helper's or an expectation function's name (`NF_CT_HELPER_NAME_LEN` is 16; the longest function is
/// "nat-follow-master").
pub const NAME_BYTES_MAX: usize = 31;

/// Everything of a conntrack entry beyond tuples, status, timeout, mark and TCP state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    pub sctp: Option<Sctp>,
    /// `CTA_LABELS`: 128 bits as words of this host's order, the first word first.
    pub labels: Option<[u32; 4]>,
    /// `CTA_HELP_NAME`.
    pub helper: Option<Box<str>>,
    /// `CTA_TUPLE_MASTER`: the flow whose expectation this one fulfilled.
    pub master: Option<FlowKey>,
    /// `CTA_SEQ_ADJ_ORIG`, `CTA_SEQ_ADJ_REPLY`.
    pub sequence: [Option<SequenceAdjustment>; 2],
    pub synproxy: Option<Synproxy>,
    /// The zone counts for one direction only.
    pub zone_direction: ZoneDirection,
    /// What the flow's helper waits for; at most [`EXPECTATIONS_MAX`], in the order of their tuples' arrival.
    pub expectations: Vec<Expectation>,
}

/// For which directions a flow's zone holds (`CTA_ZONE`, or `CTA_TUPLE_ZONE` in one of the tuples).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneDirection {
    /// [`FlowKey::zone`] holds for both.
    #[default]
    Both,
    /// [`FlowKey::zone`] holds for the original direction, the reply is in the default zone.
    Original,
    /// The original direction is in the default zone ([`FlowKey::zone`] is 0), the reply in this one.
    Reply(u16),
}

/// `CTA_PROTOINFO_SCTP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sctp {
    /// `SCTP_CONNTRACK_*`, 0..=10.
    pub state: u8,
    /// Verification tags per direction (original, reply).
    pub tags: [u32; 2],
}

/// `CTA_SEQADJ_*` of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceAdjustment {
    /// Sequence number from which on `after` counts.
    pub position: u32,
    pub before: i32,
    pub after: i32,
}

/// `CTA_SYNPROXY_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synproxy {
    pub isn: u32,
    pub its: u32,
    pub timestamp_offset: u32,
}

/// A connection that a helper has announced (`CTA_EXPECT_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Of the expected connection; fields outside the mask mean nothing.
    pub tuple: Tuple,
    /// The kernel's mask covers the source alone.
    pub mask_source: IpAddr,
    pub mask_source_port: u16,
    /// Seconds left.
    pub timeout: u32,
    pub helper: Option<Box<str>>,
    pub class: u32,
    /// `NF_CT_EXPECT_*`.
    pub flags: u32,
    pub nat: Option<ExpectedNat>,
    /// `CTA_EXPECT_FN`.
    pub function: Option<Box<str>>,
}

/// `CTA_EXPECT_NAT`: what the helper's NAT part has put in the place of the announced address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedNat {
    /// `IP_CT_DIR_*`.
    pub direction: u8,
    pub source: IpAddr,
    pub source_port: u16,
}

impl Expectation {
    /// The kernel holds only one of the two: tuple and mask are equal.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.tuple == other.tuple
            && self.mask_source == other.mask_source
            && self.mask_source_port == other.mask_source_port
    }

    /// Equal but for the time left.
    pub fn is_same(&self, other: &Self) -> bool {
        let rest = (self.class, self.flags, self.nat) == (other.class, other.flags, other.nat);
        self.is_same_place(other) && rest && self.helper == other.helper && self.function == other.function
    }
}

impl Extra {
    /// Takes from `before` what is not told here. What a conntrack message never carries, the expectations, is always kept.
    pub fn complete_with(&mut self, before: &Extra) {
        self.sctp = self.sctp.or(before.sctp);
        self.labels = self.labels.or(before.labels);
        if self.helper.is_none() {
            self.helper.clone_from(&before.helper);
        }
        self.master = self.master.or(before.master);
        for (now, then) in self.sequence.iter_mut().zip(before.sequence) {
            *now = now.or(then);
        }
        self.synproxy = self.synproxy.or(before.synproxy);
        if self.zone_direction == ZoneDirection::Both {
            self.zone_direction = before.zone_direction;
        }
        self.expectations.clone_from(&before.expectations);
    }

    /// Nothing stands in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
