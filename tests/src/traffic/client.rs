//! The client's side: keeps all sessions talking, staggered, from one thread.

use super::icmp::{self, ECHO_REPLY, ECHO_REQUEST, Echo};
use super::record::{REPLY, Record};
use super::session::{Failure, Kind, Session};
use super::{Epoch, Load};
use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::Socket;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PINGS: u64 = u64::MAX;
/// First identifier of the pings; the server sees another one.
const FIRST_IDENTIFIER: u16 = 0x4000;
/// Replies that an idle session has had when it falls silent: its flow is known in both directions then.
const IDLE_REPLIES: u64 = 2;
/// A TCP session that has this much unsent does not produce more until it drains.
const UNSENT_MAX: usize = 16 * 1024;

/// All sessions of the client; [`Client::run`] is its thread.
pub struct Client {
    epoll: OwnedFd,
    epoch: Epoch,
    server: SocketAddr,
    streams: Vec<Stream>,
    flows: Vec<Flow>,
    pings: Vec<Ping>,
    ping_socket: Socket,
    pacers: [Pacer; 3],
    awake: Arc<AtomicBool>,
}

struct Stream {
    session: Arc<Session>,
    is_idle: bool,
    socket: TcpStream,
    sent: u64,
    expected: u64,
    unsent: Vec<u8>,
    partial: Vec<u8>,
}

struct Flow {
    session: Arc<Session>,
    is_idle: bool,
    socket: UdpSocket,
    sent: u64,
}

struct Ping {
    session: Arc<Session>,
    identifier: u16,
    sent: u64,
}

/// Hands out turns so that `count` members each get one per period, evenly spread.
struct Pacer {
    step: u64,
    count: usize,
    due: u64,
    turn: usize,
}

impl Client {
    /// Opens all sessions; the calling thread must be in the client's namespace. The load's idle sessions wait for
    /// `awake` once they are known.
    ///
    /// # Errors
    /// When a connection cannot be opened within 5 s.
    pub fn open(server: SocketAddr, load: &Load, epoch: Epoch, awake: Arc<AtomicBool>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let ping_socket = icmp::socket()?;
        epoll::add(&epoll, &ping_socket, epoll::EventData::new_u64(PINGS), epoll::EventFlags::IN)?;
        let mut client = Self {
            epoll,
            epoch,
            server,
            streams: Vec::new(),
            flows: Vec::new(),
            pings: Vec::new(),
            ping_socket,
            pacers: [
                Pacer::new(load.tcp, load.tcp_interval),
                Pacer::new(load.udp, load.udp_interval),
                Pacer::new(load.icmp, load.icmp_interval),
            ],
            awake,
        };
        client.open_streams(load.tcp, load.idle)?;
        client.open_flows(load.udp, load.idle)?;
        for number in 0..load.icmp {
            let offset = u16::try_from(number).context("too many pings for 16-bit identifiers")?;
            let session = Arc::new(Session::new(Kind::Icmp, u32::from(offset)));
            client.pings.push(Ping { session, identifier: FIRST_IDENTIFIER.wrapping_add(offset), sent: 0 });
        }
        Ok(client)
    }

    /// The shared part of every session.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        let streams = self.streams.iter().map(|stream| &stream.session);
        let flows = self.flows.iter().map(|flow| &flow.session);
        let pings = self.pings.iter().map(|ping| &ping.session);
        streams.chain(flows).chain(pings).cloned().collect()
    }

    /// Talks until `stop`.
    ///
    /// # Errors
    /// Only when epoll itself fails.
    pub fn run(mut self, stop: &AtomicBool) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        while !stop.load(Ordering::Relaxed) {
            let wait = self.send_due().min(50_000_000);
            events.clear();
            let patience = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait).unwrap_or(0) };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("the client's epoll"),
            }
            for event in &events {
                self.receive(event.data.u64());
            }
        }
        Ok(())
    }

    fn open_streams(&mut self, count: usize, idle: usize) -> Result<()> {
        for number in 0..count {
            let socket = TcpStream::connect_timeout(&self.server, Duration::from_secs(5))
                .with_context(|| format!("TCP session {number} cannot be opened to {}", self.server))?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(u64::try_from(number)?);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            let session = Arc::new(Session::new(Kind::Tcp, u32::try_from(number)?));
            self.streams.push(Stream {
                session,
                is_idle: number < idle,
                socket,
                sent: 0,
                expected: 0,
                unsent: Vec::new(),
                partial: Vec::new(),
            });
        }
        Ok(())
    }

    fn open_flows(&mut self, count: usize, idle: usize) -> Result<()> {
        let any: SocketAddr = match self.server.ip() {
            IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        for number in 0..count {
            let socket = UdpSocket::bind(any)?;
            socket.connect(self.server)?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(u64::try_from(self.streams.len() + number)?);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            let session = Arc::new(Session::new(Kind::Udp, u32::try_from(number)?));
            self.flows.push(Flow { session, is_idle: number < idle, socket, sent: 0 });
        }
        Ok(())
    }

    /// Sends everything whose turn has come; nanoseconds until the next turn.
    fn send_due(&mut self) -> u64 {
        let now = self.epoch.now();
        let all = self.awake.load(Ordering::Relaxed);
        let [streams, flows, pings] = &mut self.pacers;
        while let Some(turn) = streams.turn(now) {
            let stream = &mut self.streams[turn];
            if all || !stream.is_idle || stream.session.replies() < IDLE_REPLIES {
                stream.send();
            }
        }
        while let Some(turn) = flows.turn(now) {
            let flow = &mut self.flows[turn];
            if all || !flow.is_idle || flow.session.replies() < IDLE_REPLIES {
                flow.send();
            }
        }
        while let Some(turn) = pings.turn(now) {
            self.pings[turn].send(&self.ping_socket, self.server);
        }
        self.pacers.iter().map(|pacer| pacer.due).min().unwrap_or(u64::MAX).saturating_sub(self.epoch.now())
    }

    fn receive(&mut self, token: u64) {
        let now = self.epoch.now();
        if token == PINGS {
            return self.receive_pings(now);
        }
        let Ok(index) = usize::try_from(token) else { return };
        if let Some(stream) = self.streams.get_mut(index) {
            if !stream.receive(now) {
                let _ = epoll::delete(&self.epoll, &stream.socket);
            }
        } else if let Some(flow) = self.flows.get_mut(index - self.streams.len()) {
            flow.receive(now);
        }
    }

    fn receive_pings(&self, now: u64) {
        let mut buffer = [0; 2048];
        while let Ok(length) = (&self.ping_socket).read(&mut buffer) {
            let Some(echo) = Echo::from_packet(&buffer[..length]).filter(|echo| echo.kind == ECHO_REPLY) else {
                continue;
            };
            let index = usize::from(echo.identifier.wrapping_sub(FIRST_IDENTIFIER));
            let Some(ping) = self.pings.get(index) else { continue };
            match Record::from_reply(echo.payload) {
                Some((record, seen)) => drop(ping.session.note_reply(now, record, None, seen)),
                None => ping.session.fail(Failure::Corrupt),
            }
        }
    }
}

impl Stream {
    fn send(&mut self) {
        if self.session.failure().is_some() || self.unsent.len() > UNSENT_MAX {
            return;
        }
        let record = Record { session: self.session.number, sequence: self.sent };
        self.unsent.extend_from_slice(&record.request());
        self.sent += 1;
        match self.socket.write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.session.fail(Failure::Reset),
        }
    }

    /// Takes what has arrived; false when the session is over.
    fn receive(&mut self, now: u64) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.session.fail(Failure::Closed),
                Ok(length) => self.partial.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.session.fail(Failure::Reset),
            }
            while self.partial.len() >= REPLY {
                match Record::from_reply(&self.partial) {
                    Some((record, seen)) => drop(self.session.note_reply(now, record, Some(self.expected), seen)),
                    None => self.session.fail(Failure::Corrupt),
                }
                self.expected += 1;
                self.partial.drain(..REPLY);
            }
            if self.session.failure().is_some() {
                return false;
            }
        }
    }
}

impl Flow {
    fn send(&mut self) {
        let record = Record { session: self.session.number, sequence: self.sent };
        self.sent += 1;
        // While no firewall forwards, errors come back (host unreachable): the next datagram tries again.
        let _ = self.socket.send(&record.request());
    }

    fn receive(&mut self, now: u64) {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => match Record::from_reply(&buffer[..length]) {
                    Some((record, seen)) => drop(self.session.note_reply(now, record, None, seen)),
                    None => self.session.fail(Failure::Corrupt),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A pending ICMP error is taken off the socket by the call that reports it.
                Err(_) => {}
            }
        }
    }
}

impl Ping {
    fn send(&mut self, socket: &Socket, server: SocketAddr) {
        let payload = Record { session: self.session.number, sequence: self.sent }.request();
        let sequence = u16::try_from(self.sent & 0xffff).unwrap_or(0);
        let echo = Echo { kind: ECHO_REQUEST, identifier: self.identifier, sequence, payload: &payload };
        self.sent += 1;
        let _ = socket.send_to(&echo.bytes(), &server.into());
    }
}

impl Pacer {
    fn new(count: usize, period: Duration) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let step = period / u64::try_from(count.max(1)).unwrap_or(1);
        Self { step: step.max(1), count, due: if count == 0 { u64::MAX } else { 0 }, turn: 0 }
    }

    /// Whose turn it is now, if anyone's. A client that was late catches up by at most one round.
    fn turn(&mut self, now: u64) -> Option<usize> {
        if now < self.due {
            return None;
        }
        let round = self.step.saturating_mul(u64::try_from(self.count).unwrap_or(1));
        self.due = self.due.max(now.saturating_sub(round)) + self.step;
        let turn = self.turn;
        self.turn = (turn + 1) % self.count;
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four members with a period of 100 ms take turns 25 ms apart, and after a pause of a second the pacer
    /// hands out one round at most.
    #[test]
    fn turns_are_spread_and_a_pause_is_not_made_up() {
        let mut pacer = Pacer::new(4, Duration::from_millis(100));
        let mut turns = Vec::new();
        for now in (0..100).map(|ms| ms * 1_000_000) {
            while let Some(turn) = pacer.turn(now) {
                turns.push((now / 1_000_000, turn));
            }
        }
        assert_eq!(turns, [(0, 0), (25, 1), (50, 2), (75, 3)]);
        let late = std::iter::from_fn(|| pacer.turn(2_000_000_000)).count();
        assert!((4..=5).contains(&late), "{late}");
        assert_eq!(Pacer::new(0, Duration::from_millis(1)).turn(u64::MAX - 1), None);
    }
}
