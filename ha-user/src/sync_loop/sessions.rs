//! The XDP programs are told which sessions are current, so that they refuse what cannot be genuine.

use crate::datapath::SessionTable;
use ha_common::role::NodeId;
use ha_common::sync::Engine;
use ha_common::wire::genuine::SessionEntry;

/// A floor is told again when it has risen by so much: a frame costs no system call of its own.
const FLOOR_STEP: u64 = 256;

/// What was told last.
#[derive(Default)]
pub(super) struct Sessions {
    /// `None` until the programs are loaded, and without XDP.
    table: Option<SessionTable>,
    told: Vec<(NodeId, SessionEntry)>,
}

impl Sessions {
    /// The programs are loaded, and know nothing yet.
    pub fn begin(&mut self, table: SessionTable, engine: &Engine) {
        self.table = Some(table);
        self.told.clear();
        self.tell(engine);
    }

    /// Tells what has changed. To be called before what the engine has to say is sent: a peer that learns that its
    /// session is believed sends sealed frames at once.
    pub fn tell(&mut self, engine: &Engine) {
        let Some(table) = &mut self.table else { return };
        for (node, entry) in engine.sessions() {
            let told = self.told.iter_mut().find(|(told, _)| *told == node);
            if told.as_ref().is_some_and(|(_, told)| !is_news(told, &entry)) {
                continue;
            }
            if let Err(error) = table.set(node, entry) {
                tracing::warn!(%error, "the programs do not learn which session is current");
            }
            match told {
                Some((_, told)) => *told = entry,
                None => self.told.push((node, entry)),
            }
        }
    }
}

fn is_news(told: &SessionEntry, entry: &SessionEntry) -> bool {
    let floors = |entry: &SessionEntry| [entry.hello_from, entry.data_from, entry.ack_from];
    let has_risen = floors(told).iter().zip(floors(entry)).any(|(told, now)| now >= told + FLOOR_STEP);
    (told.session, told.stamps) != (entry.session, entry.stamps) || has_risen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another session is told at once, a floor in steps.
    #[test]
    fn what_is_news() {
        let told = SessionEntry { session: 7, data_from: 100, ..SessionEntry::default() };
        assert!(!is_news(&told, &told));
        assert!(!is_news(&told, &SessionEntry { data_from: 99 + FLOOR_STEP, ..told }));
        assert!(is_news(&told, &SessionEntry { data_from: 100 + FLOOR_STEP, ..told }));
        assert!(is_news(&told, &SessionEntry { session: 8, data_from: 0, ..told }));
        assert!(is_news(&told, &SessionEntry { stamps: 1, ..told }));
    }
}
