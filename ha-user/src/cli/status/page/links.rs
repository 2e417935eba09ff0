//! The links to the peers, when there are several.

use super::super::ink::{Ink, YELLOW, duration, table, times};
use crate::status::{PeerLinkStatus, SyncStatus};

/// A row for each link to each peer; nothing when every peer has one link.
pub fn section(sync: &SyncStatus, ink: &Ink) -> String {
    if sync.peers.iter().all(|peer| peer.links.len() < 2) {
        return String::new();
    }
    let mut rows = vec![["peer", "link", "works", "state", "frames", "copies", "heard"].map(str::to_owned)];
    for peer in &sync.peers {
        rows.extend(peer.links.iter().map(|link| row(&peer.node, link)));
    }
    let failovers: u64 = sync.peers.iter().map(|peer| peer.link_failovers).sum();
    let mut text = ink.title("Links") + &table(&rows);
    if failovers > 0 {
        text += &ink.paint(YELLOW, &format!("  state took another link {}\n", times(failovers)));
    }
    text
}

fn row(peer: &str, link: &PeerLinkStatus) -> [String; 7] {
    [
        peer.to_owned(),
        link.interface.clone(),
        if link.works { "yes" } else { "NO" }.to_owned(),
        if link.active { "takes it" } else { "-" }.to_owned(),
        link.frames.to_string(),
        link.copies.to_string(),
        link.silent_ms.map_or_else(|| "-".to_owned(), |ms| format!("{} ago", duration(ms / 1000.0))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::PeerStatus;

    /// One link is not worth a table; of two, the page tells which one state takes and which one does not work.
    #[test]
    fn links_are_shown_when_there_are_several() {
        let link = |interface: &str, works| PeerLinkStatus {
            interface: interface.to_owned(),
            works,
            active: works,
            frames: 7,
            ..PeerLinkStatus::default()
        };
        let with = |links| SyncStatus {
            peers: vec![PeerStatus { node: "fw2".to_owned(), links, link_failovers: 1, ..PeerStatus::default() }],
            ..SyncStatus::default()
        };
        let ink = Ink { colour: false };
        assert_eq!(section(&with(vec![link("eth2", true)]), &ink), "");
        insta::assert_snapshot!(section(&with(vec![link("eth2", false), link("eth3", true)]), &ink), @r"

        Links
          peer  link  works  state     frames  copies  heard
          fw2   eth2  NO     -         7       0       -
          fw2   eth3  yes    takes it  7       0       -
          state took another link once
        ");
    }
}
