//! The fault matrix: bad days, made for a real pair. Each row says what is promised, does its harm, and tells what was seen;
//! a promise that does not hold is an error.
//!
//! `cargo xtask faults` runs the rows and writes docs/faults.md. Frames that no row needs to forge by meaning are recorded
//! and changed as bytes, so that the lab goes on knowing the daemon by its command line and its network alone.

mod kernel;
mod process;
mod proof;
mod socket;
mod stage;
mod upgrade;
mod wire;
mod wiretap;

use anyhow::Result;
use std::fmt::Write;

pub use proof::expect_equal_and_proven;
pub use upgrade::{OLDER_PEER, older_program};

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Enough to see it: the whole matrix takes about three minutes.
    Short,
    /// As docs/faults.md shows it.
    Full,
}

impl Extent {
    /// One of two figures.
    const fn pick<T: Copy>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

/// A row of the matrix.
#[derive(Clone, Copy)]
pub struct Fault {
    pub name: &'static str,
    /// What is done.
    pub harm: &'static str,
    pub promise: &'static str,
    /// Does it to a pair of its own; what was seen, in figures.
    pub prove: fn(Extent) -> Result<String>,
}

/// Every row that needs this build alone, in the order of the table; [`OLDER_PEER`] needs another one beside it.
pub const MATRIX: [Fault; 17] = [
    process::KILL_LOOP,
    process::STATE_DISK_FULL,
    process::RUN_READ_ONLY,
    process::DISK_READ_ONLY_LATER,
    socket::ABUSE,
    kernel::NO_ROOM,
    kernel::EVENT_STORM,
    kernel::NETLINK_REFUSED,
    kernel::RING_OVERRUN,
    kernel::INTERFACE_RECREATED,
    kernel::NETWORK_LOCK,
    wire::OTHER_SECRET,
    wire::FLAPPING_SYNC_LINK,
    wire::MTU_BLACK_HOLE,
    wire::GARBAGE,
    wire::RECORDED_FRAMES,
    wire::FORGED_FRAMES,
];

/// The rows with what was seen, as a Markdown table.
pub fn table(rows: &[(Fault, Result<String>)]) -> String {
    let mut text = "| fault | what is done | what is promised | what was seen |\n|---|---|---|---|\n".to_owned();
    for (fault, seen) in rows {
        let seen = match seen {
            Ok(seen) => seen.replace('\n', " "),
            Err(error) => format!("**broken**: {}", format!("{error:#}").lines().next().unwrap_or_default()),
        };
        let _ = writeln!(text, "| `{}` | {} | {} | {seen} |", fault.name, fault.harm, fault.promise);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Names are unique, and every row says what it does and promises; a broken promise is named in the table.
    #[test]
    fn the_table_tells_of_every_row() {
        let names: BTreeSet<_> = MATRIX.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), MATRIX.len());
        assert!(MATRIX.iter().all(|fault| !fault.harm.is_empty() && !fault.promise.is_empty()));
        let rows: Vec<_> = MATRIX.into_iter().map(|fault| (fault, Err(anyhow::anyhow!("it\nfell")))).collect();
        let shown = table(&rows);
        assert_eq!(shown.matches("**broken**: it |").count(), MATRIX.len());
    }
}
