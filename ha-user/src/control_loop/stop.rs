//! The loop's end: by request, or because it cannot go on.

use super::ControlLoop;
use crate::clock;
use ha_common::election::{Command, Input, LeaseOrder, VipState};
use std::time::Duration;

/// Between two looks while the poller is broken.
const LET_GO_TICK: Duration = Duration::from_millis(1);
/// A hand-over at a stop is confirmed or given up within 1.6 s by the election; this is for an election that errs.
const STOP_MAX: Duration = Duration::from_secs(2);

impl ControlLoop {
    /// Stops as on request, but without descriptors: what the kernel refuses to report cannot be waited for.
    pub(super) fn let_go(&mut self) {
        self.begin_stop();
        while !self.is_stopped() {
            std::thread::sleep(LET_GO_TICK);
            self.tick(clock::now());
        }
        self.datapath.unpin();
    }

    pub(super) fn begin_stop(&mut self) {
        self.stop_by = Some(clock::now() + STOP_MAX);
        self.feed(Input::Command(Command::Stop));
    }

    /// Whether a stop has come to its end. One that takes too long ends here, with the same result: no address stays.
    pub(super) fn is_stopped(&mut self) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        if self.election.is_stopped() && self.addresses.are_settled() {
            return true;
        }
        // What the kernel has not worked off then is waited for when the loop is dropped.
        let overdue = stop_by <= clock::now();
        if overdue && !self.election.is_stopped() {
            tracing::error!("the stop takes too long: the addresses are released without a goodbye");
            self.obey_lease(clock::now(), LeaseOrder::Closed);
            self.move_vips(VipState::Absent);
        }
        overdue
    }
}
