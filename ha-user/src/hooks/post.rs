//! Telling the hooks of a change: never blocking, and never losing the newest one.

use super::event::Event;
use crate::mailbox::{PostError, Postman};
use crate::request::HookRequest;
use ha_common::time::Instant;
use std::time::Duration;

/// When a full mailbox is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The control loop's way to the hooks. Changes that cannot be posted become one, which waits.
pub struct HookPost {
    hooks: Postman<HookRequest>,
    waiting: Option<(Event, Instant)>,
}

impl HookPost {
    pub fn new(hooks: Postman<HookRequest>) -> Self {
        Self { hooks, waiting: None }
    }

    /// Posts the change; when the mailbox is full it waits for [`Self::retry`].
    ///
    /// # Errors
    /// [`PostError::Full`], to be counted.
    pub fn post(&mut self, event: Event, now: Instant) -> Result<(), PostError> {
        let event = match self.waiting.take() {
            Some((older, _)) => event.after(&older),
            None => event,
        };
        match self.hooks.post(HookRequest::Event(event.clone())) {
            Err(PostError::Full) => {
                self.waiting = Some((event, now + RETRY));
                Err(PostError::Full)
            }
            // Without a thread for them there are no hooks any more; the daemon sees to it.
            Ok(()) | Err(PostError::Closed) => Ok(()),
        }
    }

    /// Posts what waits once its time has come.
    pub fn retry(&mut self, now: Instant) {
        if let Some((event, _)) = self.waiting.take_if(|(_, at)| *at <= now) {
            // It was counted when it was refused first.
            let _ = self.post(event, now);
        }
    }

    /// When [`Self::retry`] is wanted.
    pub fn retry_at(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::mailbox;
    use ha_common::role::Role;

    fn event(from: Role, to: Role) -> Event {
        Event::new(from, to, "start", 0, 0)
    }

    /// A full mailbox: the changes meanwhile become one, which arrives once there is room.
    #[test]
    fn a_full_mailbox_delays_the_newest_change() {
        let (postman, mailbox) = mailbox(1).unwrap();
        let mut post = HookPost::new(postman);
        let start = Instant(0);
        post.post(event(Role::Init, Role::Backup), start).unwrap();
        assert_eq!(post.post(event(Role::Backup, Role::Master), start), Err(PostError::Full));
        assert_eq!(post.post(event(Role::Master, Role::Fault), start), Err(PostError::Full));
        assert!(matches!(mailbox.next(), Some(HookRequest::Event(_))));
        post.retry(start);
        assert!(mailbox.next().is_none(), "not before its time");
        post.retry(start + RETRY);
        let Some(HookRequest::Event(merged)) = mailbox.next() else { panic!("nothing was posted") };
        assert_eq!((merged.from, merged.to), (Role::Backup, Role::Fault));
        assert_eq!(post.retry_at(), None);
    }
}
