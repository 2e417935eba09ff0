//! Which secrets are valid, and which is in use with whom.

use super::{Ink, YELLOW};
use crate::status::{PeerStatus, SyncStatus};

/// A line for each peer; nothing from a daemon that does not tell.
pub fn lines(sync: &SyncStatus, ink: &Ink) -> String {
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
}
