//! Torture of the pair: random faults, alone and overlapping, from a seed. A failure prints the seed; with
//! `TWINWALL_TORTURE_SEED` it is repeated, with `TWINWALL_TORTURE_FAULTS` shortened or drawn out.

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::torture::Torture;
use std::time::{SystemTime, UNIX_EPOCH};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn torture(faults: u32) {
    let faults = number("TWINWALL_TORTURE_FAULTS").map_or(faults, |number| u32::try_from(number).unwrap());
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    let seed = number("TWINWALL_TORTURE_SEED").unwrap_or_else(fresh);
    println!("TWINWALL_TORTURE_SEED={seed} TWINWALL_TORTURE_FAULTS={faults}");
    let lab = Lab::running(&Settings::default()).unwrap();
    let summary = Torture::new(lab).unwrap().run(seed, faults).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{summary:?}");
    assert!(summary.faults >= faults);
}

/// A dozen faults: after each batch of overlapping ones the pair settles, and the observer has seen one master at a time,
/// LAN and WAN together, and somebody answering. About a minute.
#[test]
fn netns_alone_torture() {
    torture(12);
}

/// The same with 500 faults.
#[test]
fn netns_long_torture() {
    torture(500);
}
