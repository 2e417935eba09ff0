//! The command line's end of the control socket.

use super::{Reply, Request};
use crate::loops::ANSWER_WITHIN;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// 100,000 flows have about 35 MB.
const REPLY_BYTES_MAX: u64 = 256 << 20;
/// For a reply to be written down, beyond the loops' own time to answer.
const REPLY_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("twinwall is not running here: {what} (start it with `twinwall run`, or choose --socket)")]
    NotRunning { what: String },
    #[error("several nodes run here: {} (choose one with --socket)", list(sockets))]
    Several { sockets: Vec<PathBuf> },
    #[error("cannot open {}: {source} (run as root, or join the socket's group)", socket.display())]
    Forbidden { socket: PathBuf, source: std::io::Error },
    #[error("{} does not answer: {source} (see the daemon's log)", socket.display())]
    NoAnswer { socket: PathBuf, source: std::io::Error },
    #[error("{} answered what this version does not understand: {source} (is the daemon of another version?)", socket.display())]
    Incomprehensible { socket: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    Refused(String),
}

/// A socket to ask.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket that was chosen, else the only live one in `directory`.
    ///
    /// # Errors
    /// When no daemon runs there, or several do.
    pub fn find(chosen: Option<PathBuf>, directory: &Path) -> Result<Self, ClientError> {
        if let Some(socket) = chosen {
            return Ok(Self { socket });
        }
        let mut sockets: Vec<PathBuf> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
            .collect();
        sockets.sort();
        if sockets.len() > 1 {
            // A killed daemon leaves its socket behind: only those that are listened to count.
            sockets.retain(|socket| UnixStream::connect(socket).is_ok());
        }
        match sockets.as_slice() {
            [socket] => Ok(Self { socket: socket.clone() }),
            [] => Err(ClientError::NotRunning { what: format!("no socket in {}", directory.display()) }),
            [_, _, ..] => Err(ClientError::Several { sockets }),
        }
    }

    /// Asks and waits, at most a few seconds.
    ///
    /// # Errors
    /// When the daemon is not running, does not answer, or refuses ([`ClientError::Refused`]).
    pub fn ask(&self, request: &Request) -> Result<Reply, ClientError> {
        self.ask_within(request, ANSWER_WITHIN)
    }

    /// As [`Self::ask`], for a request that takes the daemon up to `within`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_within(&self, request: &Request, within: Duration) -> Result<Reply, ClientError> {
        let socket = || self.socket.clone();
        let no_answer = |source| ClientError::NoAnswer { socket: socket(), source };
        let mut stream = UnixStream::connect(&self.socket).map_err(|source| match source.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket: socket(), source },
            _ => ClientError::NotRunning { what: format!("{}: {source}", self.socket.display()) },
        })?;
        stream.set_read_timeout(Some(within + REPLY_WITHIN)).map_err(no_answer)?;
        stream.set_write_timeout(Some(REPLY_WITHIN)).map_err(no_answer)?;
        let incomprehensible = |source| ClientError::Incomprehensible { socket: socket(), source };
        let mut line = serde_json::to_vec(request).map_err(incomprehensible)?;
        line.push(b'\n');
        stream.write_all(&line).map_err(no_answer)?;
        let mut reply = Vec::new();
        BufReader::new(stream.take(REPLY_BYTES_MAX)).read_until(b'\n', &mut reply).map_err(no_answer)?;
        if reply.is_empty() {
            return Err(no_answer(std::io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&reply).map_err(incomprehensible)? {
            Reply::Error(why) => Err(ClientError::Refused(why)),
            reply @ (Reply::Status(_)
            | Reply::Flows(_)
            | Reply::Done
            | Reply::HandOver(_)
            | Reply::Maintenance(_)
            | Reply::Reload(_)
            | Reply::Stopping { .. }) => Ok(reply),
        }
    }
}

fn list(sockets: &[PathBuf]) -> String {
    sockets.iter().map(|socket| socket.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// None, one, several: a dead socket beside a live one does not count.
    #[test]
    fn finding_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let find = || Client::find(None, directory.path());
        assert!(matches!(find(), Err(ClientError::NotRunning { .. })));
        assert!(matches!(Client::find(None, &directory.path().join("none")), Err(ClientError::NotRunning { .. })));
        drop(UnixListener::bind(directory.path().join("fw1.sock")).unwrap());
        let dead = find().unwrap();
        assert!(matches!(dead.ask(&Request::Status), Err(ClientError::NotRunning { .. })));
        let _live = UnixListener::bind(directory.path().join("fw2.sock")).unwrap();
        assert_eq!(find().unwrap().socket, directory.path().join("fw2.sock"));
        let _second = UnixListener::bind(directory.path().join("fw3.sock")).unwrap();
        match find() {
            Err(ClientError::Several { sockets }) => assert_eq!(sockets.len(), 2),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a choice among two"),
        }
    }
}
