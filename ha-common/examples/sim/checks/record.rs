//! What is remembered of one flow on one node: the states that its kernel had, and what its engine takes for the newest.

use ha_common::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// States of one flow on one node that are remembered at most, and how long after they were replaced: a loop that has stood
/// still reads then what its peer had said before, however much has happened since.
const STATES_MAX: usize = 1000;
const REMEMBERED: Duration = Duration::from_secs(20);

/// A state of a flow in a node's kernel.
#[derive(Clone, Copy)]
pub struct Held {
    pub mark: u32,
    /// Packets made it here; otherwise it was written for a peer.
    pub is_own: bool,
    /// Number of the event that told of it.
    pub event: u64,
    pub from: Instant,
    /// `None`: it is there now.
    pub until: Option<Instant>,
    /// When this node's engine last took it for the newest, if it has learned otherwise since.
    pub believed_until: Option<Instant>,
}

#[derive(Clone, Default)]
pub struct Record {
    pub held: VecDeque<Held>,
    /// What this node's engine takes for the newest state. Events may have been lost since.
    believed: Option<u32>,
    /// What it may take for the newest instead: it was there while the engine read the table.
    perhaps: Vec<u32>,
    /// States that this node's kernel refused, and until when its engine took each for the newest; `None`: it still does.
    refused: VecDeque<(u32, Option<Instant>)>,
    /// This node's engine knows that the flow has ended, up to the state of this mark: it was told as master, or has deleted
    /// it. Zero: it knows of no end.
    pub deleted: u32,
    pub deleted_at: Instant,
    /// When the kernel last ended it by itself, or an operator.
    pub ended_at: Instant,
    /// The number of the event that told of an end that this node's engine knows.
    pub ended_event: u64,
}

impl Record {
    pub fn close(&mut self, now: Instant) {
        if let Some(last) = self.held.back_mut() {
            last.until = last.until.or(Some(now));
        }
    }

    pub fn delete(&mut self, now: Instant, last: u32) {
        if last > self.deleted {
            (self.deleted, self.deleted_at) = (last, now);
        }
    }

    /// The engine learns that this is the newest state.
    pub fn believe(&mut self, now: Instant, mark: Option<u32>) {
        let before = std::mem::replace(&mut self.believed, mark);
        for before in before.into_iter().chain(self.perhaps.drain(..)).filter(|before| Some(*before) != mark) {
            if let Some(held) = self.held.iter_mut().rev().find(|held| held.mark == before) {
                held.believed_until = Some(now);
            }
            if let Some((_, until)) = self.refused.iter_mut().rev().find(|(mark, _)| *mark == before) {
                *until = Some(now);
            }
        }
    }

    /// The kernel refuses the newest state that the engine knows.
    pub fn refuse(&mut self, now: Instant, mark: u32) {
        self.believe(now, Some(mark));
        if self.refused.back().is_none_or(|(last, _)| *last != mark) {
            if self.refused.len() >= STATES_MAX {
                self.refused.pop_front();
            }
            self.refused.push_back((mark, None));
        }
    }

    /// The kernel had this state at that time or later, or the engine took it for the newest, as it has not heard what became of it or
    /// its kernel has refused it.
    pub fn has_since(&self, mark: u32, since: Instant) -> bool {
        let is_held = |held: &Held| {
            let is_believed = held.believed_until.is_some_and(|until| until >= since);
            held.mark == mark && (held.until.is_none_or(|until| until >= since) || is_believed)
        };
        let is_refused =
            |(refused, until): &(u32, Option<Instant>)| *refused == mark && until.is_none_or(|until| until >= since);
        let is_believed = self.believed == Some(mark) || self.perhaps.contains(&mark);
        is_believed || self.held.iter().any(is_held) || self.refused.iter().any(is_refused)
    }

    /// What the engine has heard since is newer than what it has read. Of what has changed unheard while it read, it may have read
    /// any.
    pub fn was_read(&mut self, now: Instant, begun: Instant) {
        let is_changed_since = self.held.back().is_some_and(|held| held.until.unwrap_or(held.from) > begun);
        let last = self.held.back().filter(|held| held.until.is_none()).map(|held| held.mark);
        if !is_changed_since {
            self.believe(now, last);
        } else if last != self.believed {
            let read = self.held.iter().rev().take_while(|held| held.until.is_none_or(|until| until >= begun));
            self.perhaps = read.map(|held| held.mark).collect();
        }
    }

    pub fn open(&mut self, now: Instant, mark: u32, event: Option<u64>) {
        self.close(now);
        let is_old = |held: &Held| held.until.is_some_and(|until| now.since(until) > REMEMBERED);
        while self.held.len() >= STATES_MAX || self.held.front().is_some_and(is_old) {
            self.held.pop_front();
        }
        let (is_own, event) = (event.is_some(), event.unwrap_or(0));
        self.held.push_back(Held { mark, is_own, event, from: now, until: None, believed_until: None });
    }
}
