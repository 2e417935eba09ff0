//! Holds the kernel's network lock (`rtnl_lock`), as long as wanted and without using the CPU.
//!
//! A request for an interface's statistics by name (`ETHTOOL_GSTRINGS`, net/ethtool/ioctl.c) writes its answer under the
//! lock. It is given a page of memory whose faults a userfaultfd handles, so the kernel waits there until the page is filled.

use crate::netns::Netns;
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

const PAGE: usize = 4096;
/// `struct ethtool_gstrings`: command, set, length; the strings follow.
const HEADER: usize = 12;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETH_SS_STATS: u32 = 1;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// From the request until the kernel has the lock, with a margin.
const TAKEN_AFTER: Duration = Duration::from_millis(10);

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct NetworkLock {
    faults: OwnedFd,
    /// The page whose first access waits.
    page: u64,
    holder: Option<JoinHandle<i32>>,
    _namespace: Netns,
}

impl NetworkLock {
    /// Takes it, from a namespace of its own.
    ///
    /// # Errors
    /// Without root, or where the kernel has no userfaultfd.
    pub fn hold() -> Result<Self> {
        let namespace = Netns::new("lock")?;
        namespace.ip("link add veth0 type veth peer name veth1")?;
        let socket = namespace.enter(|| Socket::new(Domain::IPV4, Type::DGRAM, None))??;
        let faults = userfaultfd()?;
        let request = trapped_request(&faults)?;
        let page = (request + HEADER) as u64;
        let holder = std::thread::spawn(move || ethtool(&socket, "veth0", request));
        std::thread::sleep(TAKEN_AFTER);
        ensure!(!holder.is_finished(), "ETHTOOL_GSTRINGS did not wait: {:?}", holder.join());
        Ok(Self { faults, page, holder: Some(holder), _namespace: namespace })
    }
}

impl Drop for NetworkLock {
    fn drop(&mut self) {
        let mut zero = [self.page, PAGE as u64, 0, 0];
        control(&self.faults, UFFDIO_ZEROPAGE, &mut zero).expect("a page of zeroes");
        if let Some(holder) = self.holder.take() {
            assert_eq!(holder.join().ok(), Some(0), "the request under the lock failed");
        }
    }
}

#[expect(unsafe_code, reason = "no crate in use wraps userfaultfd")]
fn userfaultfd() -> Result<OwnedFd> {
    // SAFETY: the call takes flags alone.
    let number = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    ensure!(number >= 0, "userfaultfd: {}", Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let faults = unsafe { OwnedFd::from_raw_fd(i32::try_from(number)?) };
    control(&faults, UFFDIO_API, &mut [UFFD_API, 0, 0]).context("UFFDIO_API")?;
    Ok(faults)
}

/// The address of a request whose answer begins on a page of which nothing is there yet. Both pages live until the process
/// ends: the kernel writes to them.
#[expect(unsafe_code, reason = "memory must be mapped without being touched")]
fn trapped_request(faults: &OwnedFd) -> Result<usize> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let pages = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, access, flags, -1, 0) };
    ensure!(pages != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    let request = pages as usize + PAGE - HEADER;
    for (at, word) in [ETHTOOL_GSTRINGS, ETH_SS_STATS, 0].into_iter().enumerate() {
        // SAFETY: the twelve bytes before the second page are inside the mapping, aligned, and nobody else's.
        unsafe { std::ptr::write((request as *mut u32).add(at), word) };
    }
    let mut range = [(pages as usize + PAGE) as u64, PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
    control(faults, UFFDIO_REGISTER, &mut range).context("UFFDIO_REGISTER")?;
    Ok(request)
}

/// The result of the request at this address: 0, or -1 with errno.
#[expect(unsafe_code, reason = "no crate in use wraps SIOCETHTOOL")]
fn ethtool(socket: &Socket, interface: &str, request: usize) -> i32 {
    // `struct ifreq`: 16 bytes of name, then the pointer in a union of 24.
    let mut ifreq = [0u64; 5];
    let mut name = [0u8; 16];
    name.iter_mut().zip(interface.bytes()).for_each(|(to, from)| *to = from);
    let (first, second) = name.split_at(8);
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    (ifreq[0], ifreq[1], ifreq[2]) = (word(first), word(second), request as u64);
    // SAFETY: the ifreq is live and of the kernel's size; it points to the mapping of `trapped_request`, whose answer (32
    // bytes a string, some dozen strings) fits the second page.
    unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, ifreq.as_mut_ptr()) }
}

#[expect(unsafe_code, reason = "no crate in use wraps userfaultfd's requests")]
fn control<const N: usize>(faults: &OwnedFd, request: libc::Ioctl, words: &mut [u64; N]) -> Result<()> {
    // SAFETY: every request used here takes a structure of 64-bit words, which the array is.
    let result = unsafe { libc::ioctl(faults.as_raw_fd(), request, words.as_mut_ptr()) };
    ensure!(result == 0, "userfaultfd: {}", Error::last_os_error());
    Ok(())
}
