//! The threads of the two loops, and the news of their end.

use std::fmt::Display;
use tokio::sync::mpsc;

/// A loop has ended: as it was told, or because it could not go on.
#[derive(Debug)]
pub struct Ended {
    pub name: &'static str,
    pub result: Result<(), String>,
}

/// Starts threads that report their end.
pub struct Workers {
    ended: mpsc::Sender<Ended>,
}

/// Both loops, and as many again that end while nobody listens.
const NEWS_MAX: usize = 4;

impl Workers {
    pub fn new() -> (Self, mpsc::Receiver<Ended>) {
        let (ended, news) = mpsc::channel(NEWS_MAX);
        (Self { ended }, news)
    }

    /// Runs `body` in a thread of this name (at most 15 bytes show in `ps`).
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start<E: Display>(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> std::io::Result<()> {
        let ended = self.ended.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = body().map_err(|error| error.to_string());
            // Only a process that is ending listens no more.
            let _ = ended.try_send(Ended { name, result });
        })?;
        Ok(())
    }
}
