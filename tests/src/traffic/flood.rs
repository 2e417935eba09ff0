//! Very many UDP flows at once from one socket: each goes to another port of the server.

use super::record::{Record, seen_socket};
use crate::netns::Netns;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the server's packet filter sends what arrives on the flood's ports.
const SINK: u16 = 7009;
/// Unanswered requests in flight: fewer than a socket buffer holds.
const IN_FLIGHT: usize = 64;

/// A server that answers on a whole range of ports, and the client's socket.
#[derive(Debug)]
pub struct Flood {
    client: UdpSocket,
    server: Ipv4Addr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Opens both ends; the server answers on ports from 10000 on.
    ///
    /// # Errors
    /// When a socket or the server's redirection cannot be made.
    pub fn open(client: &Netns, server: &Netns, address: Ipv4Addr) -> Result<Self> {
        let redirect = format!(
            "table ip flood {{ chain in {{ type nat hook prerouting priority dstnat; udp dport 10000-65535 redirect to :{SINK}; }}; }}"
        );
        server.run_with_input("nft", &["-f", "-"], &redirect)?;
        let sink = server.enter(|| UdpSocket::bind((address, SINK)))?.context("the flood's server")?;
        sink.set_read_timeout(Some(Duration::from_millis(50)))?;
        let socket = client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("the flood's client")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("flood-server".to_owned()).spawn(move || {
            let mut buffer = [0; 256];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = sink.recv_from(&mut buffer)
                    && let Some(record) = Record::from_request(&buffer[..length])
                {
                    let _ = sink.send_to(&record.reply(seen_socket(from)), from);
                }
            }
        })?;
        Ok(Self { client: socket, server: address, stop, thread: Some(thread) })
    }

    /// Talks once on every port of the range; returns when each has been answered, so each flow is known in both
    /// directions.
    ///
    /// # Errors
    /// When some port stays without an answer for 20 s.
    pub fn talk(&self, ports: Range<u16>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut missing: HashSet<u16> = ports.collect();
        while !missing.is_empty() {
            ensure!(Instant::now() < deadline, "{} flows were never answered", missing.len());
            let round: Vec<_> = missing.iter().copied().take(IN_FLIGHT).collect();
            for port in &round {
                let record = Record { session: u32::from(*port), sequence: 0 };
                // A full queue on the way is no error: the port stays among the missing.
                let _ = self.client.send_to(&record.request(), SocketAddr::from((self.server, *port)));
            }
            self.collect(&round, &mut missing);
        }
        Ok(())
    }

    fn collect(&self, round: &[u16], missing: &mut HashSet<u16>) {
        let mut buffer = [0; 256];
        while round.iter().any(|port| missing.contains(port)) {
            let Ok((length, from)) = self.client.recv_from(&mut buffer) else { return };
            if Record::from_reply(&buffer[..length]).is_some() {
                missing.remove(&from.port());
            }
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
