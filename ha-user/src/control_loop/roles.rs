//! Telling the sync loop the role: never blocking, never forgotten.

use crate::mailbox::{PostError, Postman};
use crate::request::SyncRequest;
use ha_common::role::Role;
use ha_common::time::Instant;
use std::time::Duration;

/// When a full mailbox is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// The way to the sync loop. Only the newest role matters: an older one that waits is replaced.
pub struct RolePost {
    sync: Postman<SyncRequest>,
    waiting: Option<((Role, u64), Instant)>,
}

impl RolePost {
    pub fn new(sync: Postman<SyncRequest>) -> Self {
        Self { sync, waiting: None }
    }

    /// Posts the role and, of a mastership, its term (0: none that both nodes know); when the mailbox is full it waits for
    /// [`Self::retry`].
    ///
    /// # Errors
    /// [`PostError::Full`], to be counted. A loop that has ended needs no role any more.
    pub fn post(&mut self, (role, term): (Role, u64), now: Instant) -> Result<(), PostError> {
        self.waiting = None;
        match self.sync.post(SyncRequest::Role { role, term }) {
            Err(PostError::Full) => {
                self.waiting = Some(((role, term), now + RETRY));
                Err(PostError::Full)
            }
            Ok(()) | Err(PostError::Closed) => Ok(()),
        }
    }

    /// Posts what waits once its time has come.
    pub fn retry(&mut self, now: Instant) {
        if let Some((role, at)) = self.waiting
            && at <= now
        {
            // It was counted when it was refused first.
            let _ = self.post(role, now);
        }
    }

    /// When [`Self::retry`] is wanted.
    pub fn retry_at(&self) -> Option<Instant> {
        self.waiting.map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::mailbox;

    /// A full mailbox delays the newest role until there is room; then it arrives once.
    #[test]
    fn a_full_mailbox_delays_the_newest_role() {
        let (postman, mailbox) = mailbox(1).unwrap();
        let mut roles = RolePost::new(postman);
        let start = Instant(0);
        roles.post((Role::Backup, 0), start).unwrap();
        assert_eq!(roles.post((Role::Master, 3), start), Err(PostError::Full));
        assert_eq!(roles.post((Role::Fault, 0), start), Err(PostError::Full));
        assert_eq!(roles.retry_at(), Some(start + RETRY));
        assert!(matches!(mailbox.next(), Some(SyncRequest::Role { role: Role::Backup, term: 0 })));
        roles.retry(start);
        assert!(mailbox.next().is_none(), "not before its time");
        roles.retry(start + RETRY);
        assert!(matches!(mailbox.next(), Some(SyncRequest::Role { role: Role::Fault, term: 0 })));
        assert_eq!((roles.retry_at(), mailbox.next().is_none()), (None, true));
    }
}
