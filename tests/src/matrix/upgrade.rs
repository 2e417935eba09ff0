//! Two builds beside each other, as while a pair is upgraded.

use super::stage::Stage;
use super::{Extent, Fault};
use crate::topology::Node;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Where the older build's program is expected; `cargo xtask faults --full` makes it from the repository's history.
pub fn older_program() -> PathBuf {
    let given = std::env::var_os("TWINWALL_OLDER_BIN").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/older/twinwall"))
}

pub const OLDER_PEER: Fault = Fault {
    name: "older-peer",
    harm: "the pair is taken back to the last build that speaks version 1 of the sync protocol, one node after the other, and up again; each mixture is master once on either side",
    promise: "in every mixture state arrives and is proven, and a hand-over keeps every session",
    prove: older_peer,
};

fn older_peer(_: Extent) -> Result<String> {
    let older = older_program();
    ensure!(older.exists(), "{} is missing: run `cargo xtask faults --rows older-peer`", older.display());
    let newer = crate::daemon::binary()?;
    let mut stage = Stage::new()?;
    // The backup changes its build, and gets the addresses.
    let steps = [
        (Node::Fw2, &older, "an older standby"),
        (Node::Fw1, &older, "two older nodes"),
        (Node::Fw2, &newer, "a newer standby"),
        (Node::Fw1, &newer, "two newer nodes"),
    ];
    let mut masters = 0;
    for (node, program, mixture) in steps {
        stage.lab.stop(node).with_context(|| mixture)?;
        stage.lab.start_program(node, program).with_context(|| mixture)?;
        stage.expect_well(node.peer()).with_context(|| mixture)?;
        stage.lab.hand_over(node.peer()).with_context(|| mixture)?;
        stage.expect_well(node).with_context(|| mixture)?;
        masters += 2;
    }
    Ok(format!(
        "{} changes of build, {masters} masterships: proven equal and 45 of 45 sessions after each",
        steps.len()
    ))
}
