//! Why a flow is not replicated.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The criterion that keeps a flow from the peer. No packet is refused here, so it is no
        /// [`crate::reason::DropReason`]; the name is the label in status and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FilterReason { $($(#[$doc])* $variant,)* }

        impl FilterReason {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// `protocols`.
    Protocol = "protocol",
    /// It ends on a node of the pair, or on an address that no router passes on.
    LocalAddress = "local_address",
    /// `addresses`, `ignore_addresses`.
    Address = "address",
    /// `ports`.
    Port = "port",
    /// `zones`.
    Zone = "zone",
    /// `marks`.
    Mark = "mark",
    /// `assured_only`.
    NotAssured = "not_assured",
    /// `tcp_states`.
    TcpState = "tcp_state",
    /// `min_age`: it ended before.
    ShortLived = "short_lived",
}

impl FilterReason {
    /// Whether a flow that is replicated already goes on being so in spite of it.
    pub(super) const fn only_delays(self) -> bool {
        match self {
            Self::TcpState | Self::ShortLived => true,
            Self::Protocol
            | Self::LocalAddress
            | Self::Address
            | Self::Port
            | Self::Zone
            | Self::Mark
            | Self::NotAssured => false,
        }
    }
}
