//! A check of the way to a next hop: it is asked for its MAC address, or for an echo.

mod echo;
mod neighbour;

use super::Verdict;
use super::judge::Judge;
use super::rhythm::Ticks;
use crate::config::track::{Method, TrackedPath};
use crate::link::Interface;
use crate::packet_socket::{FrameReceiver, FrameSender};
use crate::poller::Poller;
use echo::{Echo, EchoSocket};
use ha_common::time::{Instant, earliest};
use neighbour::Question;
use std::io;

/// Frames looked at between two waits.
const FRAMES_MAX: usize = 64;

/// One tracked path. A single question is on its way at a time.
pub struct Path {
    config: TrackedPath,
    judge: Judge,
    ticks: Ticks,
    socket: Option<(Interface, Sockets)>,
    asked: Option<Asked>,
    echo: Echo,
    failure: String,
}

enum Sockets {
    Neighbour { sender: FrameSender, receiver: FrameReceiver, question: Question },
    Echo(EchoSocket),
}

struct Asked {
    until: Instant,
}

impl Path {
    /// `seed` is random: echoes cannot be answered without having been seen.
    pub fn new(config: TrackedPath, seed: u64, now: Instant) -> Self {
        let (rise, fall, interval) = (config.rhythm.rise, config.rhythm.fall, config.rhythm.interval);
        let [_, _, _, _, _, _, high, low] = seed.to_be_bytes();
        let echo = Echo { id: u16::from_be_bytes([high, low]), sequence: 0, nonce: seed };
        let (judge, ticks) = (Judge::new(rise, fall), Ticks::new(interval, now));
        Self { config, judge, ticks, socket: None, asked: None, echo, failure: String::new() }
    }

    /// The interface that questions leave by.
    pub fn interface(&self) -> &str {
        &self.config.interface
    }

    /// Takes an answer, or the lack of one, and asks again when it is time to; `interface` is what it is now.
    pub fn advance(&mut self, now: Instant, interface: Interface, poller: &Poller, token: u64) -> Option<Verdict> {
        // What has come is read before the deadline is looked at: this thread may be late, and not the answer.
        let mut verdict = None;
        let answered = self.is_answered();
        if let Some(asked) = &self.asked {
            if answered {
                verdict = Some(self.hear(Ok(())));
            } else if asked.until <= now {
                let timeout = self.config.rhythm.timeout;
                verdict = Some(self.hear(Err(format!("no answer within {timeout:?}"))));
            }
        }
        if self.ticks.is_due(now) {
            // The timeout is at most the interval: nothing is on its way any more.
            match self.ask(interface, poller, token) {
                Ok(()) => self.asked = Some(Asked { until: now + self.config.rhythm.timeout }),
                Err(failure) => verdict = Some(self.hear(Err(failure))),
            }
        }
        verdict
    }

    /// When [`Self::advance`] is wanted even if nothing comes.
    pub fn poll_at(&self) -> Option<Instant> {
        earliest(Some(self.ticks.next()), self.asked.as_ref().map(|asked| asked.until))
    }

    fn is_answered(&mut self) -> bool {
        match &mut self.socket {
            None => false,
            Some((_, Sockets::Echo(socket))) => socket.is_answered(self.echo),
            Some((_, Sockets::Neighbour { receiver, question, .. })) => {
                let mut answered = false;
                for _ in 0..FRAMES_MAX {
                    match receiver.receive() {
                        Ok(Some(frame)) => answered |= question.is_answered_by(frame),
                        Ok(None) => break,
                        // The interface went down; the missing answer says the same.
                        Err(_) => {}
                    }
                }
                answered
            }
        }
    }

    fn ask(&mut self, interface: Interface, poller: &Poller, token: u64) -> Result<(), String> {
        if self.socket.as_ref().is_none_or(|(known, _)| *known != interface) {
            self.socket = None;
            let sockets = self.open(interface)?;
            sockets.watch(poller, token).map_err(|error| format!("cannot wait for answers: {error}"))?;
            self.socket = Some((interface, sockets));
        }
        self.echo.sequence = self.echo.sequence.wrapping_add(1);
        let sent = match &self.socket {
            None => return Ok(()),
            Some((_, Sockets::Echo(socket))) => socket.send(self.echo),
            Some((known, Sockets::Neighbour { sender, question, .. })) => {
                known.ifindex.map_or(Ok(()), |ifindex| sender.send(ifindex, &question.frame()))
            }
        };
        sent.map_err(|error| {
            // The next question gets a fresh socket: this one may belong to what is no more.
            self.socket = None;
            format!("cannot ask: {error}")
        })
    }

    fn open(&self, interface: Interface) -> Result<Sockets, String> {
        let name = &self.config.interface;
        let ifindex = interface.ifindex.ok_or_else(|| format!("there is no interface {name}"))?;
        let failed = |error: io::Error| format!("cannot ask through {name}: {error}");
        match self.config.method {
            Method::Echo => Ok(Sockets::Echo(EchoSocket::open(name, ifindex, self.config.target).map_err(failed)?)),
            Method::Neighbour => {
                let state = interface.state;
                let question = Question::new(interface.mac, state.source_v4, state.source_v6, self.config.target)?;
                let receiver =
                    FrameReceiver::open_type(ifindex, question.ether_type(), &question.filter()).map_err(failed)?;
                Ok(Sockets::Neighbour { sender: FrameSender::open().map_err(failed)?, receiver, question })
            }
        }
    }

    fn hear(&mut self, result: Result<(), String>) -> Verdict {
        self.asked = None;
        let good = result.is_ok();
        if let Err(failure) = result {
            tracing::debug!(target_address = %self.config.target, failure, "a next hop was not reached");
            self.failure = failure;
        }
        if self.judge.hear(good) {
            Verdict::Good
        } else {
            Verdict::Bad { weight: self.config.weight, detail: self.failure.clone() }
        }
    }
}

impl Sockets {
    fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        match self {
            Self::Neighbour { receiver, .. } => poller.watch(receiver, token),
            Self::Echo(socket) => poller.watch(socket, token),
        }
    }
}
