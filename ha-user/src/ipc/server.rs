//! Serves the control socket.

use super::{CONNECTIONS_MAX, FLOWS_MAX, FlowLine, REQUEST_BYTES_MAX, Reply, Request, TRANSFER_WITHIN};
use crate::config::track::is_label;
use crate::demotion::WEIGHT_MAX;
use crate::loops::Loops;
use crate::operate::StopKind;
use rustix::process::geteuid;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

#[derive(Debug, thiserror::Error)]
#[error("cannot open the control socket {}: {source} (choose another with --socket)", path.display())]
pub struct SocketError {
    path: PathBuf,
    source: std::io::Error,
}

/// The bound socket, before the runtime that serves it.
pub struct ControlSocket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds `path` with mode 0660. The caller holds the instance lock, so a socket found there is a dead one's.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError { path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Ok(()) => debug!(path = %path.display(), "removed the socket of a daemon that was killed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until the task is dropped.
    ///
    /// # Errors
    /// When the socket cannot be registered with the runtime.
    pub async fn serve(&self, loops: Loops) -> std::io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                warn!(limit = CONNECTIONS_MAX, "too many control connections: one was closed");
                continue;
            };
            let loops = loops.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &loops).await {
                    debug!(%error, "a control connection ended early");
                }
                drop(slot);
            });
        }
    }
}

impl Drop for ControlSocket {
    /// So that `status` says "not running" and not "connection refused".
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: UnixStream, loops: &Loops) -> std::io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let line = tokio::time::timeout(TRANSFER_WITHIN, read_line(&mut stream)).await??;
    let request = Request::parse(&line);
    let reply = match &request {
        Ok(request) => answer(request, uid, loops).await,
        Err(error) => Reply::Error(error.clone()),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    let written = tokio::time::timeout(TRANSFER_WITHIN, stream.write_all(&text)).await?;
    if let (Ok(Request::Stop { keep_role }), Reply::Stopping { .. }) = (&request, &reply) {
        // The answer first: nobody serves any more afterwards. A full channel holds another stop.
        let _ = loops.stop.try_send(if *keep_role { StopKind::KeepRole } else { StopKind::Clean });
    }
    written
}

async fn read_line(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let limit = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut line).await?;
    Ok(line)
}

async fn answer(request: &Request, uid: u32, loops: &Loops) -> Reply {
    if request.changes() && uid != 0 && uid != geteuid().as_raw() {
        return Reply::Error(format!("uid {uid} may ask but not change anything (run as root)"));
    }
    match request {
        Request::Status => Reply::Status(Box::new(loops.status().await)),
        Request::Flows { limit } => match loops.flows((*limit).min(FLOWS_MAX)).await {
            Ok(flows) => Reply::Flows(flows.iter().map(|(flow, peer)| FlowLine::new(flow, *peer)).collect()),
            Err(silent) => Reply::Error(silent.to_string()),
        },
        Request::Demote { cause, weight, seconds } => demote(cause, *weight, *seconds, loops).await,
        Request::Failover { to, force, wait, timeout_ms } => {
            let within = Duration::from_millis(*timeout_ms);
            match loops.fail_over(to.as_deref(), *force, *wait, within).await {
                Ok(report) => Reply::HandOver(report),
                Err(error) => Reply::Error(error.to_string()),
            }
        }
        Request::Maintenance { on, force } => match loops.maintain(*on, *force).await {
            Ok(outcome) => Reply::Maintenance(outcome),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Reload => match loops.reload().await {
            Ok(report) => Reply::Reload(report),
            Err(silent) => Reply::Error(silent.to_string()),
        },
        Request::Stop { .. } => Reply::Stopping { pid: std::process::id() },
        Request::Resync => match loops.resync() {
            Ok(()) => Reply::Done,
            Err(silent) => Reply::Error(silent.to_string()),
        },
    }
}

/// Whoever writes to the socket by hand may write anything.
async fn demote(cause: &str, weight: u8, seconds: Option<u64>, loops: &Loops) -> Reply {
    if !is_label(cause) {
        return Reply::Error("the cause is no name (use 1 to 64 letters, digits, '-', '_' and '.')".to_owned());
    }
    if weight > WEIGHT_MAX {
        return Reply::Error(format!("the weight {weight} is too large (choose 1 to {WEIGHT_MAX}, or 0 to clear)"));
    }
    match loops.demote(cause.to_owned(), weight, seconds.map(Duration::from_secs)).await {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Client;
    use super::super::flows::tests::flow;
    use super::*;
    use crate::loops::tests::loops;
    use crate::request::SyncRequest;
    use std::io::{Read, Write};

    /// Serves a socket in `directory` with loops that `serve_loops` answers, while `with_client` runs.
    fn with_server(with_client: impl FnOnce(&Path) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fw1.sock");
        // A dead daemon's socket is in the way.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).unwrap();
        let (loops, _control, sync) = loops();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = tokio::task::spawn_blocking({
                let path = path.clone();
                move || with_client(&path)
            });
            let sync_loop = async {
                loop {
                    if let Some(SyncRequest::Flows { limit, reply }) = sync.next() {
                        let _ = reply.send(vec![(flow(), true); limit]);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                served = socket.serve(loops) => panic!("{served:?}"),
                () = sync_loop => {}
                done = client => done.unwrap(),
            }
        });
        drop(socket);
        assert!(!path.exists(), "the socket is removed with its server");
    }

    /// A request is answered through the client over a socket that replaced a dead one's.
    #[test]
    fn flows_over_the_socket() {
        with_server(|path| {
            let client = Client::new(path.to_owned());
            match client.ask(&Request::Flows { limit: 3 }).unwrap() {
                Reply::Flows(lines) => assert_eq!(lines.len(), 3),
                other => panic!("{other:?}"),
            }
        });
    }

    /// The socket is private to its group, and requests that are wrong or too long are refused in words.
    #[test]
    fn wrong_requests_are_refused() {
        with_server(|path| {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
            let raw = |bytes: &[u8]| {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                stream.write_all(bytes).unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).unwrap();
                reply
            };
            assert!(raw(b"{\"request\":\"fail\"}\n").contains("not understood"));
            assert!(raw(b"\xff\xfe\n").contains("not understood"));
            assert!(raw(&[b'x'; REQUEST_BYTES_MAX + 1]).contains("longer than"));
        });
    }

    /// A user other than root and the daemon's own may ask but not change.
    #[tokio::test]
    async fn strangers_may_not_change() {
        let (loops, _control, sync) = loops();
        let stranger = geteuid().as_raw() + 1;
        assert!(matches!(answer(&Request::Resync, stranger, &loops).await, Reply::Error(_)));
        assert!(sync.next().is_none());
        let demote = |cause: &str, weight| Request::Demote { cause: cause.to_owned(), weight, seconds: None };
        assert!(matches!(answer(&demote("works", 1), stranger, &loops).await, Reply::Error(_)));
        for wrong in [demote("a b", 1), demote("", 1), demote("works", 255)] {
            let Reply::Error(error) = answer(&wrong, 0, &loops).await else { panic!("{wrong:?} was taken") };
            assert!(error.contains("choose") || error.contains("use"), "{error}");
        }
        assert!(matches!(answer(&Request::Resync, 0, &loops).await, Reply::Done));
        assert!(matches!(sync.next(), Some(SyncRequest::Resync)));
    }
}
