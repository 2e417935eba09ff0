//! The modes of conntrackd, by their names: how much trouble is taken over what a peer may have missed.
//!
//! | | changes | lost changes | lost removals | proof |
//! |---|---|---|---|---|
//! | FT-FW | acknowledged, sent again | sent again at once | sent again at once | digests |
//! | ALARM | sent once | repeated within RefreshTime | end after CacheTimeout | none |
//! | NOTRACK | sent once | until the flow changes again, or a resync | end by the copy's own timeout | none |
//!
//! In all of them versions decide what is newer, frames are sealed, and a new session or a resync sends the whole table.

use crate::proto::{Hello, HelloMode};
use core::fmt;

/// How a node sends and what it believes; the same on all nodes of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Reliable: every change is acknowledged or sent again.
    #[default]
    Ftfw,
    /// Every flow is sent again and again; what is not heard of any more is let go.
    Alarm,
    /// Best effort: everything is said once.
    Notrack,
}

impl Mode {
    /// The lower-case name of the configuration, of `status` and of the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ftfw => "ftfw",
            Self::Alarm => "alarm",
            Self::Notrack => "notrack",
        }
    }

    /// As it stands in a hello.
    pub(super) const fn message(self) -> HelloMode {
        match self {
            Self::Ftfw => HelloMode::Ftfw,
            Self::Alarm => HelloMode::Alarm,
            Self::Notrack => HelloMode::Notrack,
        }
    }

    /// The mode of the sender of a hello; `None` when it does not tell, or has one that is not known here.
    pub(super) fn of(hello: &Hello) -> Option<Self> {
        match HelloMode::try_from(hello.mode).ok()? {
            HelloMode::Untold => None,
            HelloMode::Ftfw => Some(Self::Ftfw),
            HelloMode::Alarm => Some(Self::Alarm),
            HelloMode::Notrack => Some(Self::Notrack),
        }
    }

    /// Are frames acknowledged, and what they carried sent again when they are not?
    pub const fn is_reliable(self) -> bool {
        match self {
            Self::Ftfw => true,
            Self::Alarm | Self::Notrack => false,
        }
    }

    /// Are copies of a peer's flows kept alive as long as nobody ends them? Where a removal may be lost for good, each
    /// would be kept for ever.
    pub(super) const fn keeps_alive(self) -> bool {
        match self {
            Self::Ftfw | Self::Alarm => true,
            Self::Notrack => false,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
