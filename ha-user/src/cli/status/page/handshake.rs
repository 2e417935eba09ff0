//! What the nodes have agreed upon: secrets, modes, versions.

use super::super::ink::{Ink, YELLOW};
use crate::status::{PeerStatus, SyncStatus};
use ha_common::sync::Capabilities;

/// What was agreed upon with each peer, and what was not.
pub fn lines(sync: &SyncStatus, ink: &Ink) -> String {
    let differences: String = sync.peers.iter().map(|peer| differences(sync, peer, ink)).collect();
    secrets(sync, ink) + &differences
}

/// Modes that differ, and what the peer does not know.
fn differences(sync: &SyncStatus, peer: &PeerStatus, ink: &Ink) -> String {
    let mut text = String::new();
    if !peer.mode.is_empty() && !sync.mode.is_empty() && peer.mode != sync.mode {
        let (node, theirs, own) = (&peer.node, &peer.mode, &sync.mode);
        let line =
            format!("  {node} replicates in mode {theirs}, this node in {own}: write the same [sync] mode on both");
        text += &format!("{}\n", ink.paint(YELLOW, &line));
    }
    let knows = |name: &str| peer.capabilities.iter().any(|known| known == name);
    let missing: Vec<_> = Capabilities::ALL.names().filter(|name| !knows(name)).collect();
    if peer.protocol > 0 && !missing.is_empty() {
        let line = format!("  {} speaks version {} without {}", peer.node, peer.protocol, missing.join(", "));
        text += &format!("{}\n", ink.paint(YELLOW, &line));
    }
    text
}

/// A line for each peer; nothing from a daemon that does not tell.
fn secrets(sync: &SyncStatus, ink: &Ink) -> String {
    if sync.key_epochs.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for peer in &sync.peers {
        let line = format!(
            "  secret: epoch {} in use with {}, which accepts {}; this node accepts {}",
            peer.key_epoch,
            peer.node,
            epochs(&peer.key_epochs_accepted),
            epochs(&sync.key_epochs),
        );
        text += &if is_changing(sync, peer) { ink.paint(YELLOW, &line) } else { line };
        text.push('\n');
    }
    text
}

/// Something is still to be done by the administrator.
fn is_changing(sync: &SyncStatus, peer: &PeerStatus) -> bool {
    sync.key_epochs.len() > 1 || peer.key_epochs_accepted.len() > 1
}

fn epochs(epochs: &[u8]) -> String {
    let words: Vec<_> = epochs.iter().map(u8::to_string).collect();
    if words.is_empty() { "none that is known".to_owned() } else { words.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the middle of a change both sides are told, for each peer.
    #[test]
    fn both_sides_are_told() {
        let peer =
            PeerStatus { node: "fw2".to_owned(), key_epoch: 3, key_epochs_accepted: vec![3], ..PeerStatus::default() };
        let sync = SyncStatus { key_epochs: vec![3, 4], peers: vec![peer], ..SyncStatus::default() };
        let expected = "  secret: epoch 3 in use with fw2, which accepts 3; this node accepts 3 and 4\n";
        assert_eq!(lines(&sync, &Ink { colour: false }), expected);
        assert!(lines(&sync, &Ink { colour: true }).contains("\x1b["));
        assert_eq!(lines(&SyncStatus::default(), &Ink { colour: false }), "");
    }

    /// A mode that differs and features that the peer lacks are said; a peer that has not spoken yet is not judged.
    #[test]
    fn differences_are_told() {
        let all = Capabilities::ALL.names().map(str::to_owned).collect::<Vec<_>>();
        let peer = |protocol, capabilities: &[String], mode: &str| PeerStatus {
            node: "fw2".to_owned(),
            protocol,
            capabilities: capabilities.to_vec(),
            mode: mode.to_owned(),
            ..PeerStatus::default()
        };
        let said = |peer| {
            let sync = SyncStatus { mode: "ftfw".to_owned(), peers: vec![peer], ..SyncStatus::default() };
            lines(&sync, &Ink { colour: false })
        };
        assert_eq!(said(peer(2, &all, "ftfw")) + &said(peer(2, &all, "")) + &said(peer(0, &[], "")), "");
        assert!(said(peer(2, &all, "alarm")).contains("fw2 replicates in mode alarm, this node in ftfw"));
        assert_eq!(said(peer(2, &all[1..], "ftfw")), "  fw2 speaks version 2 without digests\n");
    }
}
