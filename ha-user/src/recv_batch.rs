//! Many datagrams in one system call: `recvmmsg`, which rustix and socket2 do not offer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

/// Most datagrams per call.
pub const BATCH_MAX: usize = 64;

/// Buffers for one batch, used again and again.
pub struct RecvBatch {
    bytes: Vec<u8>,
    datagram_bytes_max: usize,
    received: Vec<Received>,
}

struct Received {
    length: usize,
    truncated: bool,
    source: Option<SocketAddr>,
}

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub bytes: &'a [u8],
    /// It was longer than the buffer; `bytes` is its beginning.
    pub truncated: bool,
    /// The sender, on IP sockets.
    pub source: Option<SocketAddr>,
}

impl RecvBatch {
    /// For datagrams of at most `datagram_bytes_max` bytes.
    pub fn new(datagram_bytes_max: usize) -> Self {
        Self {
            bytes: vec![0; datagram_bytes_max * BATCH_MAX],
            datagram_bytes_max,
            received: Vec::with_capacity(BATCH_MAX),
        }
    }

    /// Takes what waits in the socket, without blocking, and returns how many datagrams that were.
    ///
    /// # Errors
    /// As `recvmmsg`: `WouldBlock` when nothing waits, ENOBUFS when a netlink socket overflowed.
    #[expect(unsafe_code, reason = "recvmmsg is not wrapped by rustix or socket2")]
    pub fn recv(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.received.clear();
        // SAFETY: `mmsghdr`, `iovec` and `sockaddr_storage` are plain C structures for which all zeros is a
        // valid value (null pointers, zero lengths, AF_UNSPEC).
        let (mut headers, mut iovecs, mut names): (
            [libc::mmsghdr; BATCH_MAX],
            [libc::iovec; BATCH_MAX],
            [libc::sockaddr_storage; BATCH_MAX],
        ) = unsafe { std::mem::zeroed() };
        let chunks = self.bytes.chunks_exact_mut(self.datagram_bytes_max.max(1));
        for (((header, iovec), name), chunk) in headers.iter_mut().zip(&mut iovecs).zip(&mut names).zip(chunks) {
            iovec.iov_base = chunk.as_mut_ptr().cast();
            iovec.iov_len = chunk.len();
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
        }
        // SAFETY: the first BATCH_MAX headers point at distinct live iovecs, names and chunks of `self.bytes`
        // (there are exactly BATCH_MAX chunks), each with its true length, and all of them outlive the call. A
        // null timeout is allowed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH_MAX as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, name) in headers.iter().zip(&names).take(count) {
            self.received.push(Received {
                length: usize::try_from(header.msg_len).unwrap_or(0).min(self.datagram_bytes_max),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                source: socket_address(name),
            });
        }
        Ok(count)
    }

    /// The datagrams of the last [`RecvBatch::recv`].
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.received.iter().zip(self.bytes.chunks_exact(self.datagram_bytes_max.max(1))).filter_map(
            |(received, chunk)| {
                Some(Datagram {
                    bytes: chunk.get(..received.length)?,
                    truncated: received.truncated,
                    source: received.source,
                })
            },
        )
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

#[expect(unsafe_code, reason = "the kernel's answer is a union discriminated by its family field")]
fn socket_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller than the storage
            // and no more strictly aligned.
            let name = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let address = std::net::Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::from((address, u16::from_be(name.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with sockaddr_in6.
            let name = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let address = std::net::Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(
                address,
                u16::from_be(name.sin6_port),
                name.sin6_flowinfo,
                name.sin6_scope_id,
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// Three datagrams sent over loopback arrive in one call, in order, with sender and truncation mark.
    #[test]
    fn takes_what_waits() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let receiver = UdpSocket::bind(loopback).unwrap();
            let sender = UdpSocket::bind(loopback).unwrap();
            let mut batch = RecvBatch::new(4);
            assert_eq!(batch.recv(&receiver).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            for text in ["one", "", "three"] {
                sender.send_to(text.as_bytes(), receiver.local_addr().unwrap()).unwrap();
            }
            assert_eq!(batch.recv(&receiver).unwrap(), 3);
            let got: Vec<_> = batch.datagrams().map(|d| (d.bytes.to_vec(), d.truncated)).collect();
            assert_eq!(got, [(b"one".to_vec(), false), (Vec::new(), false), (b"thre".to_vec(), true)]);
            assert!(batch.datagrams().all(|d| d.source == sender.local_addr().ok()));
        }
    }
}
