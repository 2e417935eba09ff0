//! What one call received: buffers that hold a datagram each, or several that the kernel has joined (UDP_GRO).

use super::port::Port;
use quinn_udp::RecvMeta;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

/// Buffers in one call.
const BUFFERS: usize = 16;
/// As much as the kernel joins at the most: nothing arrives truncated.
const BUFFER_BYTES: usize = 64 * 1024;

pub(super) struct Batch {
    bytes: Vec<u8>,
    meta: [RecvMeta; BUFFERS],
    filled: usize,
}

impl Batch {
    pub fn new() -> Self {
        Self { bytes: vec![0; BUFFERS * BUFFER_BYTES], meta: [RecvMeta::default(); BUFFERS], filled: 0 }
    }

    /// Takes what waits in the socket. True when every buffer was filled: more may wait.
    ///
    /// # Errors
    /// As `recvmmsg`.
    pub fn receive(&mut self, port: &Port) -> io::Result<bool> {
        self.filled = 0;
        let mut chunks = self.bytes.chunks_exact_mut(BUFFER_BYTES);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.filled = port.receive(&mut buffers, &mut self.meta)?;
        Ok(self.filled == BUFFERS)
    }

    /// The datagrams of the last [`Batch::receive`], with their sources.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let buffers = self.meta.iter().zip(self.bytes.chunks_exact(BUFFER_BYTES)).take(self.filled);
        buffers.flat_map(|(meta, bytes)| {
            let received = bytes.get(..meta.len).unwrap_or_default();
            received.chunks(meta.stride.max(1)).map(|datagram| (meta.addr, datagram))
        })
    }
}
