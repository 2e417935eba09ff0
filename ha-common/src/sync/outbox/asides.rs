//! What is said once, in front of the changes, and not again when its frame is lost: whoever asks does so again.

use crate::proto::change::Kind;
use crate::sync::encode;
use crate::sync::filling::Filling;
use crate::sync::flow::FlowKey;
use std::collections::VecDeque;

/// Flows asked for that wait for a frame; more are asked for again later.
const WANTS_MAX: usize = 1024;
const NOTES_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Asides {
    wants: VecDeque<FlowKey>,
    /// Digests and answers to digests.
    notes: VecDeque<Kind>,
}

impl Asides {
    /// Dropped when too many wait.
    pub fn want(&mut self, key: &FlowKey) {
        if self.wants.len() < WANTS_MAX {
            self.wants.push_back(*key);
        }
    }

    /// Dropped when too many wait.
    pub fn note(&mut self, note: Kind) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push_back(note);
        }
    }

    pub fn clear(&mut self) {
        self.wants.clear();
        self.notes.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.notes.is_empty()
    }

    /// Adds them to a frame until it is full.
    pub fn fill(&mut self, filling: &mut Filling) {
        while let Some(note) = self.notes.pop_front() {
            if !filling.add(note.clone()) {
                self.notes.push_front(note);
                return;
            }
        }
        while let Some(key) = self.wants.front() {
            if !filling.add(Kind::Want(encode::key_message(key))) {
                return;
            }
            self.wants.pop_front();
        }
    }
}
