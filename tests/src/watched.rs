//! A running pair that nothing escapes of: sessions through it, and an observer on both sides.

use crate::daemon::Settings;
use crate::lab::Lab;
use crate::observer::Observer;
use crate::topology::SERVER;
use crate::traffic::{Load, Traffic};
use anyhow::Result;
use std::time::Duration;

/// TCP sends a lost segment again after 200 ms, 400 ms, and so on, so all sessions talk by then.
const SESSIONS: Duration = Duration::from_secs(8);
/// What the observer sees before anything is done to the pair.
const QUIET: Duration = Duration::from_millis(500);

/// A pair with fw1 as master, sessions and a probe of 1 kHz through it, and the observer of both sides. To be dropped in this order.
///
/// # Errors
/// When the pair does not settle, or not all sessions talk.
pub fn watched_pair() -> Result<(Observer, Traffic, Lab)> {
    let lab = Lab::running(&Settings::default())?;
    let load = Load { tcp: 20, udp: 20, icmp: 5, ..Load::default() };
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load)?;
    traffic.expect_survival(0, SESSIONS)?;
    let observer = Observer::start(&lab.pair)?;
    std::thread::sleep(QUIET);
    Ok((observer, traffic, lab))
}
