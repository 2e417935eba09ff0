//! A check by a file: there, it demotes; a number in it multiplies the weight.

use super::Verdict;
use super::rhythm::Ticks;
use crate::config::track::TrackedFile;
use crate::demotion::WEIGHT_MAX;
use ha_common::time::Instant;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use std::path::Path;

/// A number has at most three digits; the rest is blanks, or no number.
const BYTES_MAX: usize = 64;

/// One tracked file, looked at regularly.
pub struct File {
    config: TrackedFile,
    ticks: Ticks,
}

impl File {
    pub fn new(config: TrackedFile, now: Instant) -> Self {
        let ticks = Ticks::new(config.interval, now);
        Self { config, ticks }
    }

    /// Looks at it when it is time to.
    pub fn advance(&mut self, now: Instant) -> Option<Verdict> {
        self.ticks.is_due(now).then(|| judge(read(&self.config.path), self.config.weight))
    }

    /// When [`Self::advance`] is wanted.
    pub fn poll_at(&self) -> Instant {
        self.ticks.next()
    }
}

/// The beginning of the file; `None` when there is none. Never blocks, whatever is found there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Errno> {
    let file = match open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        // A directory or a pipe is there, and has no content to look for.
        return Ok(Some(Vec::new()));
    }
    let mut content = vec![0; BYTES_MAX];
    let length = rustix::io::read(&file, content.as_mut_slice())?;
    content.truncate(length);
    Ok(Some(content))
}

/// A file without a number counts as 1, and so does one that is there but cannot be read: whoever put it there wanted
/// something.
fn judge(content: Result<Option<Vec<u8>>, Errno>, weight: u8) -> Verdict {
    let (factor, detail) = match content {
        Ok(None) => return Verdict::Good,
        Ok(Some(bytes)) => match number(&bytes) {
            Some(0) => return Verdict::Good,
            Some(number) => (number, format!("the file says {number}")),
            None => (1, "the file is there".to_owned()),
        },
        Err(error) => (1, format!("the file cannot be read: {error}")),
    };
    let weight = u16::from(weight).saturating_mul(factor).min(u16::from(WEIGHT_MAX));
    Verdict::Bad { weight: u8::try_from(weight).unwrap_or(WEIGHT_MAX), detail }
}

/// A whole number from 0 to 254, alone in the file.
fn number(bytes: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= u16::from(WEIGHT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn weight(content: &str) -> Option<u8> {
        match judge(Ok(Some(content.into())), 20) {
            Verdict::Good => None,
            Verdict::Bad { weight, .. } => Some(weight),
        }
    }

    /// Presence counts once, a number so many times up to the bound, 0 not at all; what is no number is presence.
    #[test]
    fn content_multiplies_the_weight() {
        let weights = ["", "0\n", "1", " 3\n", "12", "13", "254", "255", "-1", "+3", "maintenance", "3 4"].map(weight);
        let expected = [Some(20), None, Some(20), Some(60), Some(240), Some(254), Some(254)];
        assert_eq!(weights[..7], expected);
        assert!(weights[7..].iter().all(|weight| *weight == Some(20)), "{weights:?}");
        assert_eq!(judge(Ok(None), 20), Verdict::Good);
        assert!(matches!(judge(Err(Errno::ACCESS), 20), Verdict::Bad { weight: 20, .. }));
    }

    /// A file appears, changes and vanishes; a directory and a pipe nobody writes to are looked at without blocking.
    #[test]
    fn files_of_all_kinds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("drain");
        let config = TrackedFile { path: path.clone(), weight: 7, interval: Duration::from_nanos(1) };
        let mut file = File::new(config, Instant(0));
        let mut now = 0;
        let mut look = || {
            now += 1;
            match file.advance(Instant(now)) {
                Some(Verdict::Bad { weight, .. }) => Some(weight),
                Some(Verdict::Good) => None,
                None => panic!("it was due"),
            }
        };
        assert_eq!(look(), None);
        std::fs::write(&path, "2\n").unwrap();
        assert_eq!(look(), Some(14));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(look(), Some(7));
        std::fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(look(), Some(7));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(), None);
    }
}
