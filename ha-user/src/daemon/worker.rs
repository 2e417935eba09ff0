//! The threads of the two loops: set up in the thread itself, run, and report their end.

use super::DaemonError;
use std::fmt::Display;
use std::sync::mpsc::sync_channel;
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

/// Each thread ends once; room for all.
const NEWS_MAX: usize = 4;

impl Workers {
    pub fn new() -> (Self, mpsc::Receiver<Ended>) {
        let (ended, news) = mpsc::channel(NEWS_MAX);
        (Self { ended }, news)
    }

    /// Starts a thread of this name (at most 15 bytes show in `ps`) that calls `set_up`, hands a value back, and
    /// calls `run`. What it sets up may belong to that thread alone.
    ///
    /// # Errors
    /// When the kernel gives no thread, or the set-up fails: then the thread has ended and reports nothing more.
    pub fn start<L, R: Send + 'static, E: Into<DaemonError>, F: Display>(
        &self,
        name: &'static str,
        set_up: impl FnOnce() -> Result<(L, R), E> + Send + 'static,
        run: impl FnOnce(L) -> Result<(), F> + Send + 'static,
    ) -> Result<R, DaemonError> {
        let ended = self.ended.clone();
        let (ready, is_ready) = sync_channel(1);
        let body = move || {
            let state = match set_up() {
                Ok((state, value)) => {
                    let _ = ready.send(Ok(value));
                    state
                }
                Err(error) => {
                    let _ = ready.send(Err(error.into()));
                    return;
                }
            };
            let result = run(state).map_err(|error| error.to_string());
            // Only a process that is ending listens no more.
            let _ = ended.try_send(Ended { name, result });
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|source| DaemonError::Resource { what: "start a thread", source })?;
        let nothing = || DaemonError::LoopEnded { name, reason: "its thread died while it was set up".to_owned() };
        is_ready.recv().unwrap_or_else(|_| Err(nothing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of the set-up comes back at once, the end is reported later with its error.
    #[test]
    fn set_up_then_end() {
        let (workers, mut news) = Workers::new();
        let set_up = || Ok::<_, DaemonError>(("state", 7));
        let value = workers.start("x", set_up, |state| Err(format!("{state} is lost"))).unwrap();
        assert_eq!(value, 7);
        let ended = news.blocking_recv().unwrap();
        assert_eq!((ended.name, ended.result), ("x", Err("state is lost".to_owned())));
    }

    /// A set-up that fails is an error of the start, and the loop does not run.
    #[test]
    fn failed_set_up() {
        let (workers, mut news) = Workers::new();
        let failure = || DaemonError::LoopEnded { name: "x", reason: "no socket".to_owned() };
        let set_up = move || Err::<((), ()), _>(failure());
        let error = workers.start("x", set_up, |()| Err("it ran")).unwrap_err();
        assert!(error.to_string().contains("no socket"));
        drop(workers);
        assert!(news.blocking_recv().is_none());
    }
}
