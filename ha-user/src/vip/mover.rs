//! Moves the addresses on a thread of their own, so that nobody waits for the kernel's network lock.
//!
//! Adding an address needs the lock that all changes of interfaces and routes of a machine share (`rtnl_lock` in
//! net/core/rtnetlink.c). Whoever deletes an interface or loads a routing table may hold it for longer than a lease: a
//! control loop that waited for it would lose the mastership that it is about to take.

use super::{Failure, Outcome, VipError, Vips, keep_secondaries};
use crate::mailbox::{Mailbox, Postman, mailbox};
use ha_common::election::VipState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

const THREAD_NAME: &str = "vip-mover";
/// At the end: how often is looked whether the thread still lives.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the addresses are to be, and the interfaces' indices by [`ha_common::election::InterfaceId`].
struct Order {
    state: VipState,
    ifindexes: Vec<Option<u32>>,
}

struct Done {
    vips: Vips,
    state: VipState,
    outcome: Outcome,
}

/// The thread's end and the loop's end of the addresses: one order is in work, and the newest one waits.
pub struct Mover {
    jobs: Option<SyncSender<(Vips, Order)>>,
    done: Mailbox<Done>,
    thread: Option<JoinHandle<()>>,
    /// `None` while the thread has them.
    vips: Option<Vips>,
    next: Option<Order>,
    errors: BTreeMap<Failure, u64>,
}

impl Mover {
    /// Takes the addresses; nothing is moved before [`Self::start`].
    ///
    /// # Errors
    /// When there is no room for another descriptor.
    pub fn new(vips: Vips) -> io::Result<Self> {
        let (_, done) = mailbox(1)?;
        Ok(Self { jobs: None, done, thread: None, vips: Some(vips), next: None, errors: BTreeMap::new() })
    }

    /// Starts the thread, which keeps the caller's network namespace and privileges; `prepare` is run by it first.
    ///
    /// # Errors
    /// When there is no room for another thread or descriptor.
    pub fn start(&mut self, prepare: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (postman, done) = mailbox(1)?;
        let (jobs, inbox) = sync_channel(1);
        let thread = std::thread::Builder::new().name(THREAD_NAME.into()).spawn(move || {
            prepare();
            work(&inbox, &postman);
        })?;
        (self.jobs, self.done, self.thread) = (Some(jobs), done, Some(thread));
        self.begin_next();
        Ok(())
    }

    /// The descriptor that is readable when an order has been carried out: [`Self::finished`] tells it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.done.fd()
    }

    /// Has all addresses and routes brought into `state`, after what is in work; an older order that waits is replaced.
    pub fn order(&mut self, state: VipState, ifindexes: Vec<Option<u32>>) {
        self.next = Some(Order { state, ifindexes });
        self.begin_next();
    }

    /// Whether everything ordered has been carried out and told.
    pub fn is_idle(&self) -> bool {
        self.vips.is_some() && self.next.is_none()
    }

    /// What was carried out since the last call, if anything: the state ordered, and what became of it. Begins what waits.
    pub fn finished(&mut self) -> Option<(VipState, Outcome)> {
        let Done { vips, state, outcome } = self.done.next()?;
        self.vips = Some(vips);
        for failure in outcome.errors.iter().filter_map(VipError::failure) {
            self.count(failure);
        }
        self.begin_next();
        Some((state, outcome))
    }

    /// Whether `address` is on its interface for certain: not while addresses are being moved.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.vips.as_ref().is_some_and(|vips| vips.holds(address))
    }

    /// Failures so far, by what failed.
    pub fn errors(&self) -> impl Iterator<Item = (Failure, u64)> {
        self.errors.iter().map(|(failure, count)| (*failure, *count))
    }

    /// [`keep_secondaries`], with failures counted here.
    ///
    /// # Errors
    /// When the sysctl cannot be written.
    pub fn keep_secondaries(&mut self, interface: &str) -> Result<(), VipError> {
        keep_secondaries(interface).inspect_err(|_| self.count(Failure::PromoteSecondaries))
    }

    fn count(&mut self, failure: Failure) {
        *self.errors.entry(failure).or_default() += 1;
    }

    fn begin_next(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        match (self.vips.take(), self.next.take()) {
            (Some(vips), Some(order)) => {
                if let Err(TrySendError::Full((vips, order)) | TrySendError::Disconnected((vips, order))) =
                    jobs.try_send((vips, order))
                {
                    // Not before the process ends: the thread gives the addresses back before it can be given others.
                    (self.vips, self.next) = (Some(vips), Some(order));
                }
            }
            (vips, next) => (self.vips, self.next) = (vips, next),
        }
    }
}

impl Drop for Mover {
    /// Waits until all orders have been carried out: no address stays behind because its removal was cut short.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        while !self.is_idle() && !thread.is_finished() {
            let done = self.done.fd();
            let _ = poll(&mut [PollFd::new(&done, PollFlags::IN)], Some(&LOOK_EVERY));
            drop(self.finished());
        }
        self.jobs = None;
        let _ = thread.join();
    }
}

fn work(inbox: &Receiver<(Vips, Order)>, postman: &Postman<Done>) {
    while let Ok((mut vips, Order { state, ifindexes })) = inbox.recv() {
        let outcome = vips.apply(state, |id| ifindexes.get(usize::from(id.0)).copied().flatten());
        if postman.post(Done { vips, state, outcome }).is_err() {
            // The loop has ended; one job is out at a time, so the mailbox is never full.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::config;
    use std::time::Duration;

    fn wait(mover: &mut Mover) -> (VipState, Outcome) {
        for _ in 0..10_000 {
            if let Some(finished) = mover.finished() {
                return finished;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the thread does not answer");
    }

    /// Orders come in while the first is in work: it is carried out, then only the newest; a failure is counted once for
    /// each operand. The interfaces do not exist, so an unprivileged test can ask for it.
    #[test]
    fn one_order_in_work_and_the_newest_waits() {
        let (release, gate) = sync_channel::<()>(0);
        let vips = Vips::open(&config()).unwrap();
        let mut mover = Mover::new(vips).unwrap();
        mover.start(move || gate.recv().unwrap()).unwrap();
        assert!(mover.is_idle());
        let nowhere = || vec![None; 4];
        mover.order(VipState::Present, nowhere());
        mover.order(VipState::Present, nowhere());
        mover.order(VipState::Absent, nowhere());
        assert!(!mover.is_idle() && mover.finished().is_none() && !mover.holds(IpAddr::from([10, 77, 1, 210])));
        release.send(()).unwrap();
        let (state, outcome) = wait(&mut mover);
        assert_eq!((state, outcome.errors.len()), (VipState::Present, 4));
        assert!(!mover.is_idle(), "another order waits");
        let (state, outcome) = wait(&mut mover);
        assert_eq!((state, outcome.errors.len()), (VipState::Absent, 0));
        assert!(mover.is_idle() && mover.finished().is_none());
        assert_eq!(mover.errors().collect::<Vec<_>>(), [(Failure::InterfaceMissing, 4)]);
    }
}
