//! Single TCP connections and datagrams through the pair, driven step by step by a test.

use crate::netns::Netns;
use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// TCP tries again after pauses that double.
const ANSWER: Duration = Duration::from_secs(15);
/// A datagram is sent again when it is not heard.
const AGAIN: Duration = Duration::from_millis(200);

/// Both ends of a TCP connection.
#[derive(Debug)]
pub struct Connection {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Connection {
    /// Connects from an address of the namespace (port 0: any) to where the listener is reached.
    ///
    /// # Errors
    /// When it is refused or not accepted within 15 s.
    pub fn open(from: (&Netns, SocketAddr), to: SocketAddr, listener: &TcpListener) -> Result<Self> {
        let (namespace, address) = from;
        let client = namespace.enter(|| connect(address, to))?.with_context(|| format!("{address} to {to}"))?;
        let server = accept(listener).with_context(|| format!("{address} to {to}"))?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_nodelay(true)?;
        }
        Ok(Self { client, server })
    }

    /// The server says something and the client hears it, then the other way round: the first packet of a session that a
    /// firewall does not know would come from outside.
    ///
    /// # Errors
    /// When something is not heard within 15 s, or otherwise than it was said.
    pub fn exchange(&self) -> Result<()> {
        for (mut from, mut to) in [(&self.server, &self.client), (&self.client, &self.server)] {
            from.write_all(b"data")?;
            let mut heard = [0; 4];
            to.read_exact(&mut heard)?;
            ensure!(&heard == b"data", "heard {heard:?}");
        }
        Ok(())
    }
}

/// Text lines over a connection.
#[derive(Debug)]
pub struct Dialogue {
    client: BufReader<TcpStream>,
    server: BufReader<TcpStream>,
}

impl From<Connection> for Dialogue {
    fn from(connection: Connection) -> Self {
        Self { client: BufReader::new(connection.client), server: BufReader::new(connection.server) }
    }
}

impl Dialogue {
    /// The client says a line; what the server hears.
    ///
    /// # Errors
    /// When it hears nothing within 15 s.
    pub fn say(&mut self, line: &str) -> Result<String> {
        carry_line(&mut self.client, &mut self.server, line)
    }

    /// The server says a line; what the client hears.
    ///
    /// # Errors
    /// As [`Dialogue::say`].
    pub fn answer(&mut self, line: &str) -> Result<String> {
        carry_line(&mut self.server, &mut self.client, line)
    }
}

fn carry_line(from: &mut BufReader<TcpStream>, to: &mut BufReader<TcpStream>, line: &str) -> Result<String> {
    from.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
    let mut heard = String::new();
    to.read_line(&mut heard).with_context(|| format!("{line} is not heard"))?;
    Ok(heard.trim_end().to_owned())
}

/// A listener in a namespace.
///
/// # Errors
/// When the address is taken.
pub fn listen(namespace: &Netns, address: SocketAddr) -> Result<TcpListener> {
    namespace.enter(|| TcpListener::bind(address))?.with_context(|| format!("cannot listen on {address}"))
}

fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), ANSWER)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + ANSWER;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "nobody connects within {ANSWER:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A UDP socket.
///
/// # Errors
/// When the address is taken.
pub fn datagrams(namespace: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    open(namespace, address, Type::DGRAM, None)
}

/// A UDP-Lite socket.
///
/// # Errors
/// When the kernel has no UDP-Lite.
pub fn datagrams_lite(namespace: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    open(namespace, address, Type::DGRAM, Some(Protocol::from(libc::IPPROTO_UDPLITE)))
}

/// A raw socket of an IP protocol: it sends what stands behind the IP header, and hears that with its header (IPv4) or
/// without (IPv6).
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn raw(namespace: &Netns, address: IpAddr, protocol: u8) -> Result<UdpSocket> {
    open(namespace, SocketAddr::new(address, 0), Type::RAW, Some(Protocol::from(i32::from(protocol))))
}

fn open(namespace: &Netns, address: SocketAddr, kind: Type, protocol: Option<Protocol>) -> Result<UdpSocket> {
    let made = namespace.enter(|| -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), kind, protocol)?;
        socket.bind(&address.into())?;
        socket.set_read_timeout(Some(AGAIN))?;
        Ok(socket.into())
    })?;
    made.with_context(|| format!("cannot open a socket of {protocol:?} on {address}"))
}

/// Sends a datagram until one that is `wanted` is heard at the other end; that one, and whom it comes from as seen there.
///
/// # Errors
/// When none is heard within 15 s.
pub fn carry(
    from: &UdpSocket,
    to: SocketAddr,
    datagram: &[u8],
    at: &UdpSocket,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<(SocketAddr, Vec<u8>)> {
    let deadline = Instant::now() + ANSWER;
    while Instant::now() < deadline {
        // What a firewall refuses may come back as an error of the socket (ICMP): it is sent again all the same.
        let _ = from.send_to(datagram, to);
        if let Some(heard) = hear(at, &wanted) {
            return Ok(heard);
        }
    }
    bail!("{} to {to}: not heard within {ANSWER:?}", from.local_addr()?)
}

/// The first wanted datagram that comes before there is silence.
pub fn hear(at: &UdpSocket, wanted: impl Fn(&[u8]) -> bool) -> Option<(SocketAddr, Vec<u8>)> {
    let mut buffer = [0; 2048];
    // Boundedly: others may talk all the time.
    for _ in 0..100 {
        let (length, source) = at.recv_from(&mut buffer).ok()?;
        let datagram = buffer.get(..length)?;
        if wanted(datagram) {
            return Some((source, datagram.to_vec()));
        }
    }
    None
}
