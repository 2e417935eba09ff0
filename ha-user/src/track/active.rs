//! The demotions that hold now, and when those that an operator set run out.

use super::Verdict;
use crate::demotion::{Demotion, OPERATOR_MAX};
use ha_common::time::{Instant, earliest};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Prefix of the causes that an operator sets.
const OPERATOR: &str = "operator:";

/// Why an operator's demotion was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    #[error("{OPERATOR_MAX} demotions are set by hand already (clear one with `twinwall demote CAUSE 0`)")]
    TooMany,
    #[error("no demotion {0} is set by hand (`twinwall status` lists those that are)")]
    NotSet(String),
}

/// By cause. Its size is bounded by the configuration and by [`OPERATOR_MAX`].
#[derive(Debug, Default)]
pub struct Active {
    entries: BTreeMap<Arc<str>, Entry>,
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    demotion: Demotion,
    expires_at: Option<Instant>,
}

impl Active {
    /// Takes over what a source says of its cause.
    pub fn judge(&mut self, cause: &Arc<str>, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Good => self.remove(cause, "over"),
            Verdict::Bad { weight, detail } => self.put(cause, weight, detail, None, now),
        }
    }

    /// Sets a demotion by hand, for a while or until it is cleared; weight 0 clears it.
    ///
    /// # Errors
    /// When there are too many, or nothing to clear.
    pub fn set_by_hand(
        &mut self,
        name: &str,
        weight: u8,
        during: Option<Duration>,
        now: Instant,
    ) -> Result<(), Refused> {
        let cause: Arc<str> = format!("{OPERATOR}{name}").into();
        let is_set = self.entries.contains_key(&cause);
        if weight == 0 {
            if !is_set {
                return Err(Refused::NotSet(name.to_owned()));
            }
            self.remove(&cause, "cleared by hand");
            return Ok(());
        }
        let by_hand = self.entries.keys().filter(|cause| cause.starts_with(OPERATOR)).count();
        if !is_set && by_hand >= OPERATOR_MAX {
            return Err(Refused::TooMany);
        }
        let detail = during.map_or_else(|| "set by hand".to_owned(), |during| format!("set by hand for {during:?}"));
        self.put(&cause, weight, detail, during.map(|during| now + during), now);
        Ok(())
    }

    /// Ends what has run out.
    pub fn expire(&mut self, now: Instant) {
        let is_over = |entry: &Entry| entry.expires_at.is_some_and(|at| at <= now);
        let over: Vec<_> =
            self.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(cause, _)| cause.clone()).collect();
        for cause in over {
            self.remove(&cause, "run out");
        }
    }

    /// When [`Self::expire`] is wanted.
    pub fn poll_at(&self) -> Option<Instant> {
        self.entries.values().fold(None, |at, entry| earliest(at, entry.expires_at))
    }

    /// The whole list, when it differs from the one given out last.
    pub fn take_changed(&mut self) -> Option<Vec<Demotion>> {
        std::mem::take(&mut self.changed).then(|| self.entries.values().map(|entry| entry.demotion.clone()).collect())
    }

    /// The list given out last did not arrive: it is given out again.
    pub fn give_out_again(&mut self) {
        self.changed = true;
    }

    fn put(&mut self, cause: &Arc<str>, weight: u8, detail: String, expires_at: Option<Instant>, now: Instant) {
        match self.entries.get_mut(cause) {
            Some(entry) => {
                let demotion = Demotion { weight, detail, ..entry.demotion.clone() };
                if demotion.weight != entry.demotion.weight {
                    tracing::warn!(%cause, weight, detail = demotion.detail, "the weight of a demotion changes");
                }
                self.changed |= demotion != entry.demotion;
                *entry = Entry { demotion, expires_at };
            }
            None => {
                tracing::warn!(%cause, weight, detail, "this node is demoted");
                let demotion = Demotion { cause: Arc::clone(cause), weight, detail, since: now };
                self.entries.insert(Arc::clone(cause), Entry { demotion, expires_at });
                self.changed = true;
            }
        }
    }

    fn remove(&mut self, cause: &Arc<str>, why: &str) {
        if self.entries.remove(cause).is_some() {
            tracing::info!(%cause, why, "a demotion ends");
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bad(weight: u8, detail: &str) -> Verdict {
        Verdict::Bad { weight, detail: detail.to_owned() }
    }

    fn names(list: &[Demotion]) -> Vec<(&str, u8)> {
        list.iter().map(|demotion| (&*demotion.cause, demotion.weight)).collect()
    }

    /// Each change gives out the whole list once; repetitions give out nothing and keep the beginning.
    #[test]
    fn changes_are_given_out_once() {
        let mut active = Active::default();
        let (bgp, path): (Arc<str>, Arc<str>) = ("script:bgp".into(), "path:10.0.0.1".into());
        assert_eq!(active.take_changed(), None);
        active.judge(&bgp, bad(50, "exit code 1"), Instant(1));
        active.judge(&path, bad(30, "no answer"), Instant(2));
        assert_eq!(names(&active.take_changed().unwrap()), [("path:10.0.0.1", 30), ("script:bgp", 50)]);
        active.judge(&bgp, bad(50, "exit code 1"), Instant(3));
        assert_eq!(active.take_changed(), None);
        active.judge(&bgp, bad(50, "exit code 2"), Instant(4));
        let list = active.take_changed().unwrap();
        assert_eq!((list[1].detail.as_str(), list[1].since), ("exit code 2", Instant(1)));
        active.judge(&path, Verdict::Good, Instant(5));
        active.judge(&path, Verdict::Good, Instant(6));
        assert_eq!(names(&active.take_changed().unwrap()), [("script:bgp", 50)]);
        active.give_out_again();
        assert_eq!(active.take_changed().unwrap().len(), 1);
    }

    /// What is set by hand for a while ends by itself, at its time and not before; setting it again sets a new time.
    #[test]
    fn demotions_by_hand_run_out() {
        let mut active = Active::default();
        let start = Instant(0);
        active.set_by_hand("works", 100, Some(10 * SECOND), start).unwrap();
        active.set_by_hand("for-good", 1, None, start).unwrap();
        assert_eq!(active.poll_at(), Some(start + 10 * SECOND));
        active.set_by_hand("works", 60, Some(10 * SECOND), start + 5 * SECOND).unwrap();
        active.expire(start + 14 * SECOND);
        assert_eq!(names(&active.take_changed().unwrap()), [("operator:for-good", 1), ("operator:works", 60)]);
        active.expire(start + 15 * SECOND);
        assert_eq!(names(&active.take_changed().unwrap()), [("operator:for-good", 1)]);
        assert_eq!(active.poll_at(), None);
    }

    /// Weight 0 clears what is there, and says so when nothing is; there is room for so many and not more.
    #[test]
    fn demotions_by_hand_are_bounded_and_cleared() {
        let mut active = Active::default();
        for number in 0..OPERATOR_MAX {
            active.set_by_hand(&format!("n{number}"), 1, None, Instant(0)).unwrap();
        }
        assert_eq!(active.set_by_hand("more", 1, None, Instant(0)), Err(Refused::TooMany));
        active.set_by_hand("n3", 2, None, Instant(0)).unwrap();
        active.set_by_hand("n4", 0, None, Instant(0)).unwrap();
        active.set_by_hand("more", 1, None, Instant(0)).unwrap();
        assert_eq!(active.set_by_hand("n4", 0, None, Instant(0)), Err(Refused::NotSet("n4".to_owned())));
        assert_eq!(active.take_changed().unwrap().len(), OPERATOR_MAX);
    }
}
