//! `twinwall demote`.

use super::{SocketArguments, fail_asking, print};
use crate::config::track::is_label;
use crate::demotion::WEIGHT_MAX;
use crate::ipc::Request;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall demote upstream-works 100 --for 10m    # until then the other node is the better one
  twinwall demote upstream-works 0                # back to normal at once

It ends with the daemon at the latest. `twinwall status` shows it as operator:CAUSE.
Exit codes: 0 done, 1 refused, 3 not running.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// A name of your choice: 1 to 64 letters, digits, '-', '_' and '.'
    #[arg(value_parser = cause)]
    cause: String,
    /// 1 to 254, added to what this node's adverts say; 0 clears it
    #[arg(value_parser = clap::value_parser!(u8).range(0..=i64::from(WEIGHT_MAX)))]
    weight: u8,
    /// Ends by itself after this time, like 90s, 10m or 2h [default: when it is cleared]
    #[arg(long = "for", value_name = "TIME", value_parser = during)]
    during: Option<Duration>,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let Arguments { socket, cause, weight, during } = arguments;
    let request = Request::Demote { cause, weight, seconds: during.map(|during| during.as_secs()) };
    match socket.ask(&request) {
        Ok(_) if weight == 0 => print("cleared\n"),
        Ok(_) => print("demoted; `twinwall status` shows it\n"),
        Err(error) => fail_asking(&error),
    }
}

fn cause(text: &str) -> Result<String, String> {
    if is_label(text) { Ok(text.to_owned()) } else { Err("use 1 to 64 letters, digits, '-', '_' and '.'".to_owned()) }
}

/// A second to a week.
fn during(text: &str) -> Result<Duration, String> {
    let remedy = || "write a time from 1s to 7d, like 90s, 10m, 2h or 1d".to_owned();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(remedy)?;
    let (digits, unit) = text.split_at(unit_at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(remedy()),
    };
    let total = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(remedy)?;
    if (1..=7 * 86_400).contains(&total) { Ok(Duration::from_secs(total)) } else { Err(remedy()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times with a unit are read, all others are refused.
    #[test]
    fn times() {
        let seconds = ["90s", "10m", "10min", "2h", "7d"].map(|text| during(text).unwrap().as_secs());
        assert_eq!(seconds, [90, 600, 600, 7200, 604_800]);
        for wrong in ["", "10", "m", "0s", "8d", "1w", "-1s", "1.5h", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(during(wrong).is_err(), "{wrong}");
        }
        assert!(cause("up_1.x-y").is_ok() && cause("").is_err() && cause("a b").is_err() && cause("ü").is_err());
    }
}
