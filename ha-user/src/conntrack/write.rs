//! What can be wanted of the kernel's table, and what becomes of it.

use ha_common::sync::WriteKind;
use ha_common::sync::flow::{Expectation, Flow, FlowKey};

/// One wanted change of the table.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make the flow; replaces what stands in its way.
    Create(Flow),
    /// Change status, timeout, mark and protocol state; fails with ENOENT if the flow is missing.
    Update(Flow),
    /// Remove the flow; with an `id` only if it still is that very entry.
    Delete { key: FlowKey, id: u32 },
    /// Open the windows of a TCP entry; none is there: nothing.
    Relax(FlowKey),
    /// Make an expectation of the flow `master`.
    Expect { master: FlowKey, expectation: Box<Expectation> },
    /// Remove an expectation; none is there: nothing.
    Unexpect { master: FlowKey, expectation: Box<Expectation> },
    /// Read the entry.
    Fetch(FlowKey),
}

impl Write {
    pub fn key(&self) -> &FlowKey {
        match self {
            Self::Create(flow) | Self::Update(flow) => &flow.key,
            Self::Delete { key, .. } | Self::Relax(key) | Self::Fetch(key) => key,
            Self::Expect { master, .. } | Self::Unexpect { master, .. } => master,
        }
    }

    pub fn kind(&self) -> WriteKind {
        match self {
            Self::Create(_) => WriteKind::Create,
            Self::Update(_) => WriteKind::Update,
            Self::Delete { .. } => WriteKind::Delete,
            Self::Relax(_) | Self::Fetch(_) => WriteKind::Relax,
            Self::Expect { .. } | Self::Unexpect { .. } => WriteKind::Expect,
        }
    }

    /// Done after the others of its batch, when all entries are what they shall be: an expectation needs its master.
    pub(super) fn is_late(&self) -> bool {
        match self {
            Self::Create(_) | Self::Update(_) | Self::Delete { .. } | Self::Relax(_) => false,
            Self::Expect { .. } | Self::Unexpect { .. } | Self::Fetch(_) => true,
        }
    }
}

/// What to do with a live entry that stands in the way of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The peer knows better: this node does not forward.
    Replace,
    /// This node forwards: an entry that has seen traffic both ways stays.
    KeepLive,
}

/// What became of writes, where it is not simply success.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// Refused, also at the last try.
    Failed { write: &'a Write, errno: i32 },
    /// An existing entry was kept in place of the flow.
    Kept(&'a Flow),
    /// Another flow's entry was removed to make room.
    Removed(&'a Flow),
    /// The answer to [`Write::Fetch`]; `None`: there is no such entry.
    Fetched { key: &'a FlowKey, flow: Option<&'a Flow> },
    /// Answers were lost: any of the last writes may have failed.
    Unknown,
}
