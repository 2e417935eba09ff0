//! Why a packet was refused: one enum for the XDP counters, the metric labels and the test oracle.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The verdict on one advert or sync frame. The discriminant is the index in the BPF counter maps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// Every reason in discriminant order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// How many reasons exist: the size of a counter row.
            pub const COUNT: usize = Self::ALL.len();

            /// The snake-case name used as metric label and in logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// True when XDP lets the packet through all the same: it is not malformed, only not for this
            /// daemon, or userspace could not be told.
            #[inline(always)]
            pub const fn is_passed_on(self) -> bool {
                matches!(self, Self::Vrrp | Self::VhidUnknown | Self::RingFull)
            }
        }
    };
}

reasons! {
    // -- adverts, decided by the shared parser (XDP and socket path) --
    /// The frame ends before the header it announces.
    Truncated = "truncated",
    /// IPv4 header length or total length contradict the frame.
    IpLength = "ip_length",
    /// IPv4 header checksum is wrong.
    IpChecksum = "ip_checksum",
    /// Protocol 112, but a fragment: adverts are never fragmented.
    Fragment = "fragment",
    /// TTL or hop limit is not 255: the advert came through a router or is forged.
    TtlNot255 = "ttl_not_255",
    /// Protocol 112 but VRRP, not CARP (`carp-wire` section 13): passed on, counted.
    Vrrp = "vrrp",
    /// CARP version is not 2.
    CarpVersion = "carp_version",
    /// CARP type is not 1 (advertisement).
    CarpType = "carp_type",
    /// The IP payload is not exactly 36 bytes.
    CarpLength = "carp_length",
    /// `authlen` is not 7.
    CarpAuthLen = "carp_authlen",
    /// CARP checksum over the 36 bytes is wrong.
    CarpChecksum = "carp_checksum",
    /// No group member on this interface has this VHID.
    VhidUnknown = "vhid_unknown",
    /// The ring buffer to the controller is full; the advert was passed to the stack only.
    RingFull = "ring_full",
    // -- adverts, decided by the election --
    /// Destination is neither the group nor this node.
    Destination = "destination",
    /// Source is not one of the configured unicast peers.
    SourceNotPeer = "source_not_peer",
    /// HMAC-SHA1 does not match: wrong password, VHID or address list.
    BadDigest = "bad_digest",
    /// Our own advert came back (loop or reflection).
    OwnAdvert = "own_advert",
    /// The same counter and digest as the previous advert of this source (`carp-wire` section 5).
    RepeatedAdvert = "repeated_advert",
    /// A better master that is not the peer, while the peer's heartbeats decide and no other master is obeyed.
    ForeignMaster = "foreign_master",
    // -- sync frames, decided by the header parser (XDP and socket path) --
    /// The datagram is shorter than a sync header and tag.
    FrameShort = "frame_short",
    /// Wrong magic: not a twinwall frame.
    FrameMagic = "frame_magic",
    /// A frame version this build does not speak.
    FrameVersion = "frame_version",
    /// A frame kind this build does not know.
    FrameKind = "frame_kind",
    /// The sender is not a configured peer or uses another peer's address.
    FrameSender = "frame_sender",
    /// Sealed under a key epoch this node does not hold.
    FrameKeyEpoch = "frame_key_epoch",
    /// The body length in the header contradicts the datagram.
    FrameLength = "frame_length",
    /// A hello of no session that is known, while more of them came than a peer sends.
    FrameRate = "frame_rate",
    // -- heartbeats and the gate, decided by XDP --
    /// The frame has the heartbeats' EtherType and magic, but not their length.
    HeartbeatLength = "heartbeat_length",
    /// A version or kind of heartbeat that this build does not speak.
    HeartbeatVersion = "heartbeat_version",
    /// Not from the peer to this node.
    HeartbeatSender = "heartbeat_sender",
    /// Keyed under an epoch of the secret that this node does not hold.
    HeartbeatKeyEpoch = "heartbeat_key_epoch",
    /// The tag is wrong: another secret, or a forgery.
    HeartbeatTag = "heartbeat_tag",
    /// An answer to a probe of another session of this node, or to an older probe than the last answered.
    HeartbeatStale = "heartbeat_stale",
    /// ARP or neighbour solicitation for a virtual address while this node holds no live lease.
    LeaseClosed = "lease_closed",
    // -- sync frames, decided by XDP as far as it has been told, else by the sync engine --
    /// The frame belongs to a session that is not the peer's current one.
    FrameSession = "frame_session",
    /// The sequence number was seen already or is older than the window.
    FrameReplay = "frame_replay",
    /// The authentication tag, or the header's stamp, is wrong.
    FrameAuth = "frame_auth",
    /// Authentic, but the body does not decode.
    FrameBody = "frame_body",
    /// Authentic, but from an incompatible configuration (another cluster).
    FrameCluster = "frame_cluster",
    /// The frame is for another node of the cluster: multicast carries all of them.
    FrameTarget = "frame_target",
    /// The frame came over another link before: the sender meant it so.
    FrameCopy = "frame_copy",
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    /// Names are unique and discriminants are the positions: the counter maps and the metrics rely on it.
    #[test]
    fn names_are_unique_and_indices_dense() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }
}
