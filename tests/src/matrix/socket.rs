//! The control socket, in the hands of people who mean no good.

use super::stage::Stage;
use super::{Extent, Fault};
use crate::topology::Node;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A request has 2 s to arrive (docs/configuration.md); then its connection is free for others.
const FREE_AGAIN: Duration = Duration::from_secs(5);
/// Where nobody's rights are those of root.
const NOBODY: &str = "65534";

pub const ABUSE: Fault = Fault {
    name: "control-socket-abuse",
    harm: "1000 clients connect and say nothing or half a request; requests of 1 MiB, of noise and of other types; a request by another uid",
    promise: "64 connections are served, the rest closed; roles and sessions do not notice; status answers again within 5 s; other users change nothing",
    prove: abuse,
};

fn abuse(extent: Extent) -> Result<String> {
    let stage = Stage::new()?;
    let socket = stage.lab.files(Node::Fw1).socket;
    let descriptors = |pid: u64| -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let pid = stage.lab.status(Node::Fw1)?.number("/pid");
    let before = descriptors(pid)?;
    let mut most = 0;
    for _ in 0..extent.pick(1, 10) {
        let clients = crowd(&socket)?;
        most = most.max(descriptors(pid)?);
        drop(clients);
    }
    let held = crowd(&socket)?;
    let begin = Instant::now();
    while stage.lab.status(Node::Fw1).is_err() {
        ensure!(begin.elapsed() < FREE_AGAIN, "status does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let back = begin.elapsed();
    drop(held);
    huge(&socket)?;
    let said = other_user(&stage, &socket)?;
    stage.expect_unmoved()?;
    let after = descriptors(pid)?;
    ensure!(most <= before + 70, "{most} descriptors at a time, {before} before");
    ensure!(after <= before + 2, "{after} descriptors are open, {before} before");
    Ok(format!(
        "{most} descriptors at most ({before} before); status answered {:.1} s into the siege; another user: \"{said}\"; 45 of 45 \
         sessions, no role changed",
        back.as_secs_f64()
    ))
}

/// A thousand clients: every second has said half a request. Some are turned away; a closed connection is fine.
fn crowd(socket: &Path) -> Result<Vec<UnixStream>> {
    let mut clients = Vec::new();
    for number in 0..1000 {
        let mut client = UnixStream::connect(socket).with_context(|| format!("client {number}"))?;
        if number % 2 == 0 {
            let _ = client.write_all(b"{\"Status");
        }
        clients.push(client);
    }
    Ok(clients)
}

/// Requests that no client of ours would send: each is answered by an error or by the end of the connection.
fn huge(socket: &Path) -> Result<()> {
    let noise: Vec<u8> = (0..4000_u32).map(|n| (n * 7919 % 251) as u8).chain([b'\n']).collect();
    let requests: [&[u8]; 4] = [&vec![b'x'; 1 << 20], &noise, b"[[[[[[[[[[[[[[[[[[\n", b"{\"Failover\":{\"to\":5}}\n"];
    for request in requests {
        let mut client = UnixStream::connect(socket)?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        let _ = client.write_all(request);
        let mut answer = Vec::new();
        let ended = client.read_to_end(&mut answer);
        let refused = answer.windows(5).any(|word| word == b"Error" || word == b"error");
        let is_over = ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        ensure!(is_over && (answer.is_empty() || refused), "answered {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// Another user who may open the socket may ask, and change nothing.
fn other_user(stage: &Stage, socket: &Path) -> Result<String> {
    let ask = |words: &[&str]| -> Result<(bool, String)> {
        let command = stage.lab.files(Node::Fw1).command(words)?;
        let mut other = Command::new("setpriv");
        other.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        other.arg(command.get_program()).args(command.get_args()).env("TWINWALL_SOCKET", socket);
        let output = other.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    };
    let (changed, said) = ask(&["failover", "--force"])?;
    ensure!(!changed, "another user moved the master");
    ensure!(said.contains("ermission denied"), "the refusal does not name its reason: {said}");
    // As with a group of operators: the socket may be opened, and still only root changes something.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    let directory = socket.parent().context("the socket has a directory")?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    let (changed, said) = ask(&["failover", "--force"])?;
    ensure!(!changed && said.contains("run as root"), "another user: {said}");
    Ok(said.lines().last().unwrap_or_default().to_owned())
}
