//! The server's side: echoes every record with the address that it saw.

use super::icmp::{self, ECHO_REPLY, ECHO_REQUEST, Echo};
use super::record::{REQUEST, Record, seen_socket, seen_word};
use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::Socket;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LISTENER: u64 = 0;
const DATAGRAMS: u64 = 1;
const PINGS: u64 = 2;
const FIRST_STREAM: u64 = 16;
/// More connections than this are closed at once.
const STREAMS_MAX: usize = 20_000;

/// The echo server of TCP, UDP and (on IPv4) ICMP; [`Server::run`] is its thread.
pub struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    datagrams: UdpSocket,
    pings: Socket,
    streams: HashMap<u64, Stream>,
    next: u64,
}

struct Stream {
    socket: TcpStream,
    seen: u64,
    partial: Vec<u8>,
}

impl Server {
    /// Opens the sockets; the calling thread must be in the server's namespace.
    ///
    /// # Errors
    /// When the address is not the server's or is in use.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("the server cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let datagrams = UdpSocket::bind(address)?;
        datagrams.set_nonblocking(true)?;
        let pings = icmp::socket()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |fd: rustix::fd::BorrowedFd<'_>, data| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN)
        };
        watch(listener.as_fd(), LISTENER)?;
        watch(datagrams.as_fd(), DATAGRAMS)?;
        watch(pings.as_fd(), PINGS)?;
        Ok(Self { epoll, listener, datagrams, pings, streams: HashMap::new(), next: FIRST_STREAM })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// Only when epoll itself fails; what a client does never ends the server.
    pub fn run(mut self, stop: &AtomicBool) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("the server's epoll"),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    DATAGRAMS => self.answer_datagrams(),
                    PINGS => self.answer_pings(),
                    stream => self.answer_stream(stream),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Ok((socket, from)) = self.listener.accept() {
            if self.streams.len() >= STREAMS_MAX || socket.set_nonblocking(true).is_err() {
                continue;
            }
            let _ = socket.set_nodelay(true);
            let token = self.next;
            self.next += 1;
            let data = epoll::EventData::new_u64(token);
            if epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).is_ok() {
                self.streams.insert(token, Stream { socket, seen: seen_socket(from), partial: Vec::new() });
            }
        }
    }

    fn answer_stream(&mut self, token: u64) {
        let Some(stream) = self.streams.get_mut(&token) else { return };
        if !stream.answer() {
            // Closing the socket takes it out of the epoll set as well.
            self.streams.remove(&token);
        }
    }

    fn answer_datagrams(&self) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.datagrams.recv_from(&mut buffer) {
            if let Some(record) = Record::from_request(&buffer[..length]) {
                let _ = self.datagrams.send_to(&record.reply(seen_socket(from)), from);
            }
        }
    }

    fn answer_pings(&self) {
        let mut buffer = [0; 2048];
        while let Ok(length) = (&self.pings).read(&mut buffer) {
            answer_ping(&self.pings, &buffer[..length]);
        }
    }
}

fn answer_ping(socket: &Socket, packet: &[u8]) {
    let Some(echo) = Echo::from_packet(packet).filter(|echo| echo.kind == ECHO_REQUEST) else { return };
    let Some(from) = icmp::source(packet) else { return };
    let Some(record) = Record::from_request(echo.payload) else { return };
    let payload = record.reply(seen_word(IpAddr::V4(from), echo.identifier));
    let reply = Echo { kind: ECHO_REPLY, payload: &payload, ..echo };
    let _ = socket.send_to(&reply.bytes(), &SocketAddr::from((from, 0)).into());
}

impl Stream {
    /// Answers what has arrived; false when the connection is over.
    fn answer(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.partial.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            while self.partial.len() >= REQUEST {
                let Some(record) = Record::from_request(&self.partial) else { return false };
                self.partial.drain(..REQUEST);
                // A client reads what it asked for: a full send buffer means that it does not, and ends it.
                if self.socket.write_all(&record.reply(self.seen)).is_err() {
                    return false;
                }
            }
        }
    }
}

/// Echoes the probe's datagrams as fast as they come, in a thread of its own.
///
/// # Errors
/// When the address cannot be bound.
pub fn probe_echo(address: SocketAddr) -> Result<impl FnOnce(&AtomicBool)> {
    let socket = UdpSocket::bind(address).with_context(|| format!("the probe's server cannot bind {address}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(move |stop: &AtomicBool| {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    })
}
