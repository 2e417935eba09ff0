//! What demotes this node: a thread of its own looks at interfaces, scripts, files, next hops and the conntrack table,
//! and tells the control loop which demotions hold.
//!
//! Nothing here blocks, and nothing runs with real-time priority: a check that hangs is killed, an answer that is late
//! counts as missing, and the election is told of changes only, through its mailbox.

mod active;
mod conntrack;
mod file;
mod judge;
mod path;
mod rhythm;
mod script;

pub use active::Refused;

use crate::clock;
use crate::config::Resolved;
use crate::config::track::{CONNTRACK_CAUSE, TrackedInterface};
use crate::damper::{Carrier, Damper};
use crate::link::{Interface, LinkError, Links};
use crate::mailbox::{Mailbox, PostError, Postman};
use crate::poller::Poller;
use crate::request::{ControlRequest, TrackRequest};
use active::Active;
use conntrack::Pressure;
use file::File;
use ha_common::election::InterfaceId;
use ha_common::time::{Instant, earliest};
use path::Path;
use script::Script;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// When the control loop's mailbox was full.
const POST_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Requests answered at one wake-up.
const REQUESTS_MAX: usize = 16;

/// Everything is looked at after each wake-up, so that one token serves for all descriptors.
const ANYTHING: u64 = 0;

/// Why the tracker cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    #[error(transparent)]
    Links(#[from] LinkError),
    #[error("cannot wait for events: {0} (are file descriptors exhausted? see `ulimit -n`)")]
    Poll(#[source] io::Error),
    #[error("the kernel gives no random seed: {0}")]
    Seed(getrandom::Error),
}

/// What a source says of itself now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad { weight: u8, detail: String },
}

/// All sources, and the demotions that they amount to.
pub struct Tracker {
    active: Active,
    interfaces: Vec<(Arc<str>, TrackedInterface, Damper)>,
    scripts: Vec<(Arc<str>, Script)>,
    files: Vec<(Arc<str>, File)>,
    paths: Vec<(Arc<str>, Path)>,
    pressure: Option<(Arc<str>, Pressure)>,
    links: Links,
    /// By position, as in `links`.
    names: Vec<String>,
    poller: Poller,
    control: Postman<ControlRequest>,
    post_again: Option<Instant>,
}

impl Tracker {
    /// Opens what is needed to look at everything that `[track]` names. `control` is told of changes.
    ///
    /// # Errors
    /// When the kernel refuses netlink or a poll descriptor. A missing interface or program is no error but a demotion.
    pub fn new(resolved: &Resolved, control: Postman<ControlRequest>) -> Result<Self, TrackError> {
        let (config, now) = (&resolved.track, clock::now());
        let mut names: Vec<String> = config.interfaces.iter().map(|interface| interface.name.clone()).collect();
        names.extend(config.paths.iter().map(|path| path.interface.clone()));
        names.sort_unstable();
        names.dedup();
        // A question must not be asked in the name of an address that the other node may hold.
        let virtual_addresses = resolved.vips.iter().flat_map(|vip| vip.addresses.iter().map(|(address, _)| *address));
        let links = Links::open(&names, virtual_addresses.collect())?;
        let seed = getrandom::u64().map_err(TrackError::Seed)?;
        let interfaces = config.interfaces.iter().map(|interface| {
            let damper = Damper::new(interface.up_delay, Duration::ZERO);
            (interface.cause().into(), interface.clone(), damper)
        });
        let paths = config.paths.iter().zip(0u64..).map(|(path, number)| {
            // Distinct ids: the low bits differ.
            (path.cause().into(), Path::new(path.clone(), seed.wrapping_add(number), now))
        });
        let scripts = config.scripts.iter().map(|script| (script.cause().into(), Script::new(script.clone(), now)));
        let pressure = config.conntrack.map(|conntrack| (CONNTRACK_CAUSE.into(), Pressure::new(conntrack, now)));
        Ok(Self {
            active: Active::default(),
            interfaces: interfaces.collect(),
            scripts: scripts.collect(),
            files: config.files.iter().map(|file| (file.cause().into(), File::new(file.clone(), now))).collect(),
            paths: paths.collect(),
            pressure,
            links,
            names,
            poller: Poller::new().map_err(TrackError::Poll)?,
            control,
            post_again: None,
        })
    }

    /// Tracks until [`TrackRequest::Stop`], or until the control loop has ended. Scripts that run are killed then.
    ///
    /// # Errors
    /// When the kernel refuses to report events any more.
    pub fn run(mut self, mailbox: Mailbox<TrackRequest>) -> Result<(), TrackError> {
        self.poller.watch(mailbox.fd(), ANYTHING).map_err(TrackError::Poll)?;
        self.poller.watch(&self.links, ANYTHING).map_err(TrackError::Poll)?;
        let mut ready = Vec::new();
        loop {
            self.links.receive(&mut Vec::new())?;
            let now = clock::now();
            self.look(now);
            for _ in 0..REQUESTS_MAX {
                match mailbox.next() {
                    None => break,
                    Some(TrackRequest::Demote { name, weight, during, reply }) => {
                        // Whoever asked may have given up waiting: that is its affair.
                        let _ = reply.send(self.active.set_by_hand(&name, weight, during, now));
                    }
                    Some(TrackRequest::Stop) => return Ok(()),
                }
            }
            self.active.expire(now);
            self.post(now);
            self.poller.wait(self.poll_at(), &mut ready).map_err(TrackError::Poll)?;
        }
    }

    /// Every source that has something to say says it.
    fn look(&mut self, now: Instant) {
        for (cause, config, damper) in &mut self.interfaces {
            let link = interface(&self.links, &self.names, &config.name);
            damper.observe(Carrier::of(link.ifindex.is_some(), link.state.up), now);
            self.active.judge(cause, judge_interface(config, damper, link), now);
        }
        for (cause, script) in &mut self.scripts {
            if let Some(verdict) = script.advance(now, &self.poller, ANYTHING) {
                self.active.judge(cause, verdict, now);
            }
        }
        for (cause, file) in &mut self.files {
            if let Some(verdict) = file.advance(now) {
                self.active.judge(cause, verdict, now);
            }
        }
        for (cause, path) in &mut self.paths {
            let link = interface(&self.links, &self.names, path.interface());
            if let Some(verdict) = path.advance(now, link, &self.poller, ANYTHING) {
                self.active.judge(cause, verdict, now);
            }
        }
        if let Some((cause, pressure)) = &mut self.pressure
            && let Some(verdict) = pressure.advance(now)
        {
            self.active.judge(cause, verdict, now);
        }
    }

    /// Tells the control loop what has changed. What it cannot take now it gets soon, and then the newest list.
    fn post(&mut self, now: Instant) {
        if self.post_again.is_some_and(|at| at > now) {
            return;
        }
        self.post_again = None;
        let Some(list) = self.active.take_changed() else { return };
        match self.control.post(ControlRequest::Demotions(list)) {
            // A loop that has ended needs nothing any more; the daemon sees to it.
            Ok(()) | Err(PostError::Closed) => {}
            Err(PostError::Full) => {
                self.active.give_out_again();
                self.post_again = Some(now + POST_AGAIN_AFTER);
            }
        }
    }

    fn poll_at(&self) -> Option<Instant> {
        let dampers = self.interfaces.iter().map(|(_, _, damper)| damper.poll_at());
        let scripts = self.scripts.iter().map(|(_, script)| script.poll_at());
        let files = self.files.iter().map(|(_, file)| Some(file.poll_at()));
        let paths = self.paths.iter().map(|(_, path)| path.poll_at());
        let rest =
            [self.pressure.as_ref().map(|(_, pressure)| pressure.poll_at()), self.active.poll_at(), self.post_again];
        dampers.chain(scripts).chain(files).chain(paths).chain(rest).fold(None, earliest)
    }
}

/// The interface of this name; a missing one when it is not there.
fn interface(links: &Links, names: &[String], name: &str) -> Interface {
    let position = names.iter().position(|known| known == name).and_then(|at| u8::try_from(at).ok());
    position.map_or_else(Interface::default, |at| links.interface(InterfaceId(at)))
}

fn judge_interface(config: &TrackedInterface, damper: &Damper, link: Interface) -> Verdict {
    if damper.is_up() {
        return Verdict::Good;
    }
    let detail = match (link.ifindex, link.state.up) {
        (None, _) => "there is no such interface",
        (Some(_), false) => "down or without carrier",
        (Some(_), true) => "up again, but not for long enough",
    };
    Verdict::Bad { weight: config.weight, detail: detail.to_owned() }
}
