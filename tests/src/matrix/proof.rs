//! Equal tables, and that both nodes have proven it.

use crate::conntrack;
use crate::lab::Lab;
use crate::netns::wait_until;
use crate::topology::Node;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Both kernels hold the same flows of the client, at least one, and each node has proven it by a digest that is younger than this wait.
///
/// # Errors
/// When that takes longer than `patience`: the differing entries, or what the node says of its peer.
pub fn expect_equal_and_proven(lab: &Lab, patience: Duration) -> Result<()> {
    let begin = Instant::now();
    let mut tables = Default::default();
    wait_until("the tables are equal", patience, || {
        let table = |node: Node| conntrack::table(&lab.pair[node], "src=192.168.103.10").unwrap_or_default();
        tables = (table(Node::Fw1), table(Node::Fw2));
        tables.0 == tables.1 && !tables.0.is_empty()
    })
    .with_context(|| conntrack::differences(&tables.0, &tables.1, 5))?;
    for node in Node::BOTH {
        let mut last = Value::Null;
        wait_until("it is proven", patience, || {
            let Ok(status) = lab.status(node) else { return false };
            last = status.0.pointer("/sync/peers/0").cloned().unwrap_or_default();
            let age = last.get("proven_ms").and_then(Value::as_f64);
            status.number("/sync/peers/0/differing_buckets") == 0
                && age.is_some_and(|ms| Duration::from_secs_f64(ms / 1e3) < begin.elapsed())
        })
        .with_context(|| format!("{}: {last}", node.name()))?;
    }
    Ok(())
}
