//! A bounded queue into a poll loop: the sender never blocks, the loop waits on a file descriptor.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The loop's end.
pub struct Mailbox<T> {
    queue: Receiver<T>,
    wake: Arc<OwnedFd>,
}

/// The other threads' end.
pub struct Postman<T> {
    queue: SyncSender<T>,
    wake: Arc<OwnedFd>,
}

impl<T> Clone for Postman<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), wake: Arc::clone(&self.wake) }
    }
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PostError {
    #[error("the loop's mailbox is full; it is busy or hangs")]
    Full,
    #[error("the loop has ended")]
    Closed,
}

/// Makes a mailbox for at most `capacity` waiting messages.
///
/// # Errors
/// When the eventfd cannot be made (file descriptors exhausted).
pub fn mailbox<T>(capacity: usize) -> std::io::Result<(Postman<T>, Mailbox<T>)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let (sender, receiver) = sync_channel(capacity);
    Ok((Postman { queue: sender, wake: Arc::clone(&wake) }, Mailbox { queue: receiver, wake }))
}

impl<T> Postman<T> {
    /// Posts without blocking.
    ///
    /// # Errors
    /// [`PostError::Full`] or [`PostError::Closed`]; the message is dropped.
    pub fn post(&self, message: T) -> Result<(), PostError> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => PostError::Full,
            TrySendError::Disconnected(_) => PostError::Closed,
        })?;
        // A full counter means that the loop was woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}

impl<T> Mailbox<T> {
    /// The descriptor to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes the next message, and clears the wake-up when there is none.
    pub fn next(&self) -> Option<T> {
        if let Ok(message) = self.queue.try_recv() {
            return Some(message);
        }
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        // A message posted between the two lines would be forgotten: look once more.
        self.queue.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full mailbox refuses, a drained one takes again, a dropped one says so.
    #[test]
    fn bounded_and_closable() {
        let (postman, mailbox) = mailbox(1).unwrap();
        postman.post(1).unwrap();
        assert_eq!(postman.post(2), Err(PostError::Full));
        assert_eq!(mailbox.next(), Some(1));
        assert_eq!(mailbox.next(), None);
        postman.post(3).unwrap();
        assert_eq!(mailbox.next(), Some(3));
        drop(mailbox);
        assert_eq!(postman.post(4), Err(PostError::Closed));
    }
}
