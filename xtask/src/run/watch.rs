//! Asks both daemons again and again in the background, so that the timeline never waits for one of them.

use anyhow::Result;
use ha_tests::daemon::Status;
use ha_tests::lab::{Answers, Lab};
use ha_tests::topology::Node;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two questions to one daemon.
const INTERVAL: Duration = Duration::from_millis(150);

/// The watching threads; they end when it is dropped.
pub struct Watch {
    seen: [Arc<Mutex<Option<Status>>>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches both nodes of the lab.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut watch = Self { seen: Default::default(), stop: Arc::default(), threads: Vec::new() };
        for node in Node::BOTH {
            let (files, seen, stop) = (lab.files(node), Arc::clone(&watch.seen[node.index()]), Arc::clone(&watch.stop));
            let thread = std::thread::Builder::new().name(format!("watch-{}", node.name()));
            watch.threads.push(thread.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A daemon that is frozen answers late; until then its last answer stands.
                    let answer = files.status().ok();
                    *lock(&seen) = answer;
                    std::thread::sleep(INTERVAL);
                }
            })?);
        }
        Ok(watch)
    }

    /// What both said last.
    pub fn answers(&self) -> Answers {
        Node::BOTH.map(|node| lock(&self.seen[node.index()]).clone())
    }
}

fn lock(seen: &Mutex<Option<Status>>) -> MutexGuard<'_, Option<Status>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
