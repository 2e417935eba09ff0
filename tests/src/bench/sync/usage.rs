//! What a daemon and its wire have used: processor time, memory, bytes.

use crate::netns::Netns;
use anyhow::{Context, Result};
use rustix::process::Pid;
use std::fs;

/// Names of the threads that carry state begin so; conntrackd has one thread for everything.
const SYNC_THREADS: &str = "sync";

/// Processor time since the process began, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub all: u64,
    /// Of the threads that carry state alone.
    pub sync: u64,
}

impl Cpu {
    /// Of a living process, from its threads' `schedstat`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(pid: Pid) -> Result<Self> {
        let mut cpu = Self::default();
        for task in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).context("the daemon has ended")? {
            let task = task?.path();
            // A thread that has ended in between has nothing to add.
            let (Ok(stat), Ok(name)) =
                (fs::read_to_string(task.join("schedstat")), fs::read_to_string(task.join("comm")))
            else {
                continue;
            };
            let spent = stat.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            cpu.all += spent;
            if name.starts_with(SYNC_THREADS) {
                cpu.sync += spent;
            }
        }
        Ok(cpu)
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { all: self.all.saturating_sub(earlier.all), sync: self.sync.saturating_sub(earlier.sync) }
    }
}

/// Resident memory, MiB.
///
/// # Errors
/// When the process has ended.
pub fn resident_mib(pid: Pid) -> Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).context("the daemon has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Bytes that have gone through an interface in both directions, Ethernet headers included.
///
/// # Errors
/// When there is no such interface.
pub fn wire_bytes(node: &Netns, interface: &str) -> Result<u64> {
    let text = node.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    let (_, numbers) = lines.find(|(name, _)| *name == interface).context("no such interface")?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // Received bytes come first, sent bytes ninth.
    Ok(numbers.first().unwrap_or(&0) + numbers.get(8).unwrap_or(&0))
}

/// The machine's load average over the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// This process has used some time and some memory, and a thread named as those that carry state is told apart.
    #[test]
    fn own_usage_is_seen() {
        let pid = rustix::process::getpid();
        let before = Cpu::of(pid).unwrap();
        let worker = std::thread::Builder::new().name("sync-test".to_owned()).spawn(move || {
            while Cpu::of(pid).unwrap().since(before).sync < 1_000_000 {
                std::hint::black_box((0..10_000u64).sum::<u64>());
            }
            Cpu::of(pid).unwrap()
        });
        let used = worker.unwrap().join().unwrap().since(before);
        assert!(used.sync >= 1_000_000 && used.all >= used.sync, "{used:?}");
        assert!(resident_mib(pid).unwrap() > 1.0);
        let mut gone = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&gone);
        gone.wait().unwrap();
        assert!(Cpu::of(pid).is_err());
    }
}
