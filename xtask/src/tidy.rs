//! `xtask tidy`: the rules of the house that the compiler does not know.

use crate::shell;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Longer files are listed: a file is one idea, mostly shorter than this.
const LINES_USUAL: usize = 400;

/// Where `unsafe` may stand, each time argued.
const UNSAFE_FILES: [&str; 15] = [
    "ha-ebpf/src/clock.rs",
    "ha-ebpf/src/cursor.rs",
    "ha-ebpf/src/deliver.rs",
    "ha-ebpf/src/fence.rs",
    "ha-ebpf/src/maps.rs",
    "ha-user/src/control_loop/realtime.rs",
    "ha-user/src/datapath/pod.rs",
    "ha-user/src/heap.rs",
    "ha-user/src/packet_socket.rs",
    "ha-user/src/recv_batch.rs",
    "tests/examples/bench_sync_rx/af_xdp.rs",
    "tests/src/netns.rs",
    "tests/src/network_lock.rs",
    "tests/src/packet.rs",
    "tests/src/realtime.rs",
];

/// The edges of ha-user: none may import another, and none a loop.
const EDGES: [&str; 9] =
    ["advert_socket", "conntrack", "datapath", "forwarded", "heartbeat_socket", "link", "maintenance", "peer", "vip"];
const LOOPS: [&str; 4] = ["control_loop", "hooks", "sync_loop", "track"];

/// What the pure core must not reach for: clocks, sockets, files, threads, randomness.
const IMPURE: [&str; 10] = [
    "std::time",
    "SystemTime",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::fs",
    "std::io",
    "std::thread",
    "std::process",
    "getrandom",
];

/// Clocks that somebody can set, or that stand still while the machine sleeps: no decision of the daemon may go by them.
const WALL_CLOCKS: [&str; 5] = ["SystemTime", "ClockId::Realtime", "time::Instant", "Instant::now", "unix_seconds"];
/// Where they are read, or shown to people and to Prometheus.
const CLOCK_PLACES: [&str; 5] = [
    "ha-user/src/clock.rs",
    "ha-user/src/daemon/mod.rs",
    "ha-user/src/logging.rs",
    "ha-user/src/loops.rs",
    "ha-user/src/metrics/",
];
/// The services' time-outs are tokio's; the election's and the sync engine's loops have their own deadlines.
const TOKIO_TIME: &str = "tokio::time";
const TOKIO_TIME_PLACES: [&str; 10] = [
    "ha-user/src/child.rs",
    "ha-user/src/cli/",
    "ha-user/src/daemon/services.rs",
    "ha-user/src/hooks.rs",
    "ha-user/src/hooks/",
    "ha-user/src/ipc/",
    "ha-user/src/loops.rs",
    "ha-user/src/metrics/",
    "ha-user/src/operate.rs",
    "ha-user/src/track/",
];

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask tidy")]
pub struct Args {}

pub fn run(_: &Args) -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(shell::cargo().args(["fmt", "--check", "--manifest-path", "ha-ebpf/Cargo.toml"]))?;
    let sources = sources()?;
    let problems: Vec<String> = sources.iter().flat_map(check).collect();
    for problem in &problems {
        eprintln!("{problem}");
    }
    for source in sources.iter().filter(|source| source.lines.len() > LINES_USUAL) {
        println!("{}: {} lines, more than the usual {LINES_USUAL}", source.path, source.lines.len());
    }
    ensure!(problems.is_empty(), "{} rules broken", problems.len());
    println!("tidy: {} files keep the rules", sources.len());
    Ok(())
}

/// A Rust file: its path from the root, and its lines without comments.
struct Source {
    path: String,
    lines: Vec<String>,
}

fn check(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    // This file names what it forbids.
    if source.path == "xtask/src/tidy.rs" {
        return problems;
    }
    for (number, line) in source.lines.iter().enumerate() {
        let mut report = |what: String| problems.push(format!("{}:{}: {what}", source.path, number + 1));
        if has_word(line, "unsafe") && !is_unsafe_attribute(line) && !UNSAFE_FILES.contains(&source.path.as_str()) {
            report("unsafe code outside of the files listed in xtask/src/tidy.rs".to_owned());
        }
        if line.contains("[allow(") {
            report("allow: use #[expect(lint, reason = \"…\")]".to_owned());
        }
        if let Some(import) = forbidden_import(&source.path, line) {
            report(format!("an edge imports {import}: edges know neither each other nor a loop"));
        }
        if let Some(word) = wall_clock(&source.path, line) {
            report(format!("{word}: decisions go by ha_user::clock::now() alone (CLOCK_BOOTTIME)"));
        }
        if let Some(word) = impurity(&source.path, line) {
            report(format!("{word} in the pure core: time, input and randomness are arguments"));
        }
    }
    problems
}

/// `#[unsafe(no_mangle)]` and `unsafe_code` in an expectation are no unsafe code.
fn is_unsafe_attribute(line: &str) -> bool {
    line.contains("#[unsafe(")
}

fn forbidden_import(path: &str, line: &str) -> Option<&'static str> {
    let inside = path.strip_prefix("ha-user/src/")?;
    let own = EDGES.iter().find(|edge| inside.starts_with(&format!("{edge}/")) || inside == format!("{edge}.rs"))?;
    let others = EDGES.iter().filter(|edge| *edge != own);
    others.chain(&LOOPS).find(|module| line.contains(&format!("crate::{module}"))).copied()
}

fn impurity(path: &str, line: &str) -> Option<&'static str> {
    if !path.starts_with("ha-common/src/") {
        return None;
    }
    IMPURE.iter().find(|word| line.contains(**word)).copied()
}

fn wall_clock(path: &str, line: &str) -> Option<&'static str> {
    let in_places = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
    if !path.starts_with("ha-user/src/") {
        return None;
    }
    // `ha_common::time::Instant` is ours, a point on the boot clock.
    let line = line.replace("ha_common::time::Instant", "");
    if !in_places(&CLOCK_PLACES)
        && let Some(word) = WALL_CLOCKS.iter().find(|word| line.contains(**word))
    {
        return Some(word);
    }
    (line.contains(TOKIO_TIME) && !in_places(&TOKIO_TIME_PLACES)).then_some(TOKIO_TIME)
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_part)
            && !line[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

/// Every Rust file of the project, without comments.
pub fn texts() -> Result<Vec<String>> {
    Ok(sources()?.into_iter().map(|source| source.lines.join("\n")).collect())
}

fn sources() -> Result<Vec<Source>> {
    let root = shell::root();
    let mut paths = Vec::new();
    for part in ["ha-common", "ha-ebpf", "ha-user", "tests", "xtask"] {
        collect(&root.join(part), &mut paths)?;
    }
    paths.sort();
    paths.iter().map(|path| read(&root, path)).collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

fn read(root: &Path, path: &Path) -> Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().map(|line| without_comment(line).to_owned()).collect();
    let path = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    Ok(Source { path, lines })
}

/// Cut at `//`, unless it is part of a URL in a string.
fn without_comment(line: &str) -> &str {
    let cut = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
    cut.map_or(line, |at| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, line: &str) -> usize {
        check(&Source { path: path.to_owned(), lines: vec![without_comment(line).to_owned()] }).len()
    }

    /// Each rule finds its breach, and only where the rule holds.
    #[test]
    fn rules_find_breaches() {
        assert_eq!(problems("ha-user/src/vip/mod.rs", "use crate::conntrack::Socket;"), 1);
        assert_eq!(problems("ha-user/src/vip/mod.rs", "use crate::sync_loop;"), 1);
        assert_eq!(problems("ha-user/src/vip/mod.rs", "use crate::vip::Batch;"), 0);
        assert_eq!(problems("ha-user/src/control_loop.rs", "use crate::vip::Batch;"), 0);
        assert_eq!(problems("ha-common/src/role.rs", "use std::time::SystemTime;"), 1);
        assert_eq!(problems("ha-user/src/clock.rs", "use std::time::SystemTime;"), 0);
        assert_eq!(problems("ha-user/src/control_loop/act.rs", "let now = std::time::SystemTime::now();"), 1);
        assert_eq!(problems("ha-user/src/control_loop/act.rs", "use std::time::Instant;"), 1);
        assert_eq!(problems("ha-user/src/control_loop/act.rs", "let now = Instant::now();"), 1);
        assert_eq!(problems("ha-user/src/vip/mod.rs", "clock_gettime(ClockId::Realtime)"), 1);
        assert_eq!(problems("ha-user/src/sync_loop/mod.rs", "let at = clock::unix_seconds();"), 1);
        assert_eq!(problems("ha-user/src/sync_loop/mod.rs", "tokio::time::sleep(PACE).await;"), 1);
        assert_eq!(problems("ha-user/src/ipc/server.rs", "tokio::time::sleep(PACE).await;"), 0);
        assert_eq!(problems("ha-user/src/metrics/mod.rs", "started_unix_seconds: f64,"), 0);
        assert_eq!(problems("ha-user/src/control_loop/act.rs", "use ha_common::time::Instant;"), 0);
        assert_eq!(problems("ha-user/src/clock.rs", "unsafe { read() }"), 1);
        assert_eq!(problems("ha-user/src/clock.rs", "// unsafe is a word here"), 0);
        assert_eq!(problems("ha-user/src/recv_batch.rs", "unsafe { read() }"), 0);
        assert_eq!(problems("ha-user/src/clock.rs", "#[expect(unsafe_code, reason = \"x\")]"), 0);
        assert_eq!(problems("ha-user/src/clock.rs", "#[allow(dead_code)]"), 1);
    }
}
