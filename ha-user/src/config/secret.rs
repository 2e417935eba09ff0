//! The cluster's shared secret: one line `twinwall-secret-v1 EPOCH HEX` in a file that only root reads, or two while it is
//! changed: the older, and the newer that takes its place.

use ha_common::secret::{ClusterKey, KEYS_MAX};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// First word of the file.
const FORMAT: &str = "twinwall-secret-v1";
/// Bytes of key material.
pub const SECRET_LEN: usize = 32;
/// A right line has at most 88 bytes; what is much longer is another file.
const FILE_BYTES_MAX: u64 = 512;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {}: {source} (make it with `twinwall keygen`, and copy it to every node)", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{} may be read by others (mode {mode:04o}): run `chmod 600 {}`", file.display(), file.display())]
    Exposed { file: PathBuf, mode: u32 },
    #[error("{} is not a regular file (give the path of the file that `twinwall keygen` made)", file.display())]
    NotAFile { file: PathBuf },
    #[error("{} is no twinwall secret: {what} (make one with `twinwall keygen`)", file.display())]
    Malformed { file: PathBuf, what: &'static str },
    #[error("{} exists already; --force replaces it, and every node then needs the new one", file.display())]
    Exists { file: PathBuf },
    #[error("{} has two secrets already (epochs {older} and {newer}): end that change first, with --retire", file.display())]
    Rotating { file: PathBuf, older: u8, newer: u8 },
    #[error("{} has one secret alone (epoch {epoch}): --rotate puts a new one beside it", file.display())]
    NotRotating { file: PathBuf, epoch: u8 },
    #[error("cannot write {}: {source}", file.display())]
    Unwritable { file: PathBuf, source: std::io::Error },
    #[error("the kernel gives no random bytes: {0}")]
    NoRandomness(String),
}

/// Reads the secrets from a file that nobody but its owner may read: one, or two with the newer last.
///
/// # Errors
/// When the file is missing, readable by group or others, or not of the format.
pub fn read(path: &Path) -> Result<Vec<ClusterKey>, SecretError> {
    let text = read_private(path, FILE_BYTES_MAX)?;
    parse(&text).map_err(|what| SecretError::Malformed { file: path.to_owned(), what })
}

/// Reads a small file that nobody but its owner may read (a secret or a password).
///
/// # Errors
/// When it cannot be read, is longer than `bytes_max`, or group or others may read it.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { file: path.to_owned(), source };
    // Non-blocking: a FIFO in its place must not hang the start.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretError::NotAFile { file: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { file: path.to_owned(), mode });
    }
    // Room for the whole, so that no reallocation leaves a copy behind.
    let capacity = usize::try_from(bytes_max).unwrap_or(4096) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() >= capacity {
        return Err(SecretError::Malformed { file: path.to_owned(), what: "it is too long" });
    }
    Ok(bytes)
}

/// Makes a new random secret in a file of mode 0600.
///
/// # Errors
/// [`SecretError::Exists`] without `force`, else when the file cannot be written.
pub fn generate(path: &Path, force: bool) -> Result<u8, SecretError> {
    // The next epoch tells frames of the old secret from forgeries while the nodes are changed over.
    let before = read(path).ok().and_then(|keys| keys.last().map(|key| key.epoch));
    let key = random(before)?;
    let epoch = key.epoch;
    write(path, force, &[key])?;
    Ok(epoch)
}

/// Puts a new random secret beside the one that is there, and returns both epochs.
///
/// # Errors
/// When the file has no secret, or two; or cannot be written.
pub fn rotate(path: &Path) -> Result<[u8; 2], SecretError> {
    let mut keys = read(path)?;
    let [older] = keys.as_slice() else {
        let [older, newer] = [keys.first(), keys.last()].map(|key| key.map_or(0, |key| key.epoch));
        return Err(SecretError::Rotating { file: path.to_owned(), older, newer });
    };
    let newer = random(Some(older.epoch))?;
    let epochs = [older.epoch, newer.epoch];
    keys.push(newer);
    write(path, true, &keys)?;
    Ok(epochs)
}

/// Takes the older of two secrets away, and returns the epochs of the one that went and the one that stays.
///
/// # Errors
/// When the file has not two secrets, or cannot be written.
pub fn retire(path: &Path) -> Result<[u8; 2], SecretError> {
    let keys = read(path)?;
    let [older, newer] = keys.as_slice() else {
        let epoch = keys.last().map_or(0, |key| key.epoch);
        return Err(SecretError::NotRotating { file: path.to_owned(), epoch });
    };
    write(path, true, std::slice::from_ref(newer))?;
    Ok([older.epoch, newer.epoch])
}

fn random(before: Option<u8>) -> Result<ClusterKey, SecretError> {
    let mut secret = Zeroizing::new(vec![0; SECRET_LEN]);
    getrandom::fill(&mut secret).map_err(|error| SecretError::NoRandomness(error.to_string()))?;
    let epoch = before.and_then(|epoch| epoch.checked_add(1)).unwrap_or(1);
    Ok(ClusterKey { epoch, secret: secret.into() })
}

fn write(path: &Path, force: bool, keys: &[ClusterKey]) -> Result<(), SecretError> {
    let unwritable = |source| SecretError::Unwritable { file: path.to_owned(), source };
    if !force && path.symlink_metadata().is_ok() {
        return Err(SecretError::Exists { file: path.to_owned() });
    }
    // A new file under another name, then link or rename: never half a secret, never somebody else's mode.
    let mut temporary_name = path.file_name().unwrap_or_default().to_owned();
    temporary_name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary).map_err(unwritable)?;
    let written = file
        .write_all(emit(keys).as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| if force { std::fs::rename(&temporary, path) } else { std::fs::hard_link(&temporary, path) });
    // After a rename there is nothing left to remove.
    let _ = std::fs::remove_file(&temporary);
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(SecretError::Exists { file: path.to_owned() })
        }
        other => other.map_err(unwritable),
    }
}

/// The text of a secret file, as [`parse`] reads it.
pub fn emit(keys: &[ClusterKey]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(keys.len() * (FORMAT.len() + 2 * SECRET_LEN + 8)));
    for key in keys {
        text.push_str(&format!("{FORMAT} {} ", key.epoch));
        for byte in key.secret.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
        }
        text.push('\n');
    }
    text
}

/// Reads the text of a secret file: one secret, or two with the newer last.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8]) -> Result<Vec<ClusterKey>, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let mut keys: Vec<ClusterKey> = Vec::with_capacity(KEYS_MAX);
    for line in text.lines().filter(|line| !line.trim_ascii().is_empty()) {
        let key = parse_line(line)?;
        if keys.len() == KEYS_MAX {
            return Err("more than two secrets are in it: the older and the newer one are all that can be valid");
        }
        if keys.iter().any(|other| other.epoch == key.epoch) {
            return Err("both of its secrets have the same epoch");
        }
        keys.push(key);
    }
    if keys.is_empty() { Err("it does not begin with twinwall-secret-v1") } else { Ok(keys) }
}

fn parse_line(line: &str) -> Result<ClusterKey, &'static str> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some(FORMAT) {
        return Err("a line does not begin with twinwall-secret-v1");
    }
    let epoch = words.next().and_then(|word| word.parse().ok()).filter(|epoch| *epoch != 0);
    let epoch = epoch.ok_or("the second word of a line is not an epoch from 1 to 255")?;
    let digits = words.next().filter(|word| word.len() == 2 * SECRET_LEN);
    let digits = digits.ok_or("the third word of a line does not have 64 hexadecimal digits")?;
    if words.next().is_some() {
        return Err("a line has more than three words");
    }
    let mut secret = Zeroizing::new(Vec::with_capacity(SECRET_LEN));
    for pair in digits.as_bytes().chunks_exact(2) {
        let mut value = 0;
        for &digit in pair {
            let digit = char::from(digit).to_digit(16);
            value = value * 16 + digit.ok_or("the third word of a line has other than hexadecimal digits")?;
        }
        secret.push(u8::try_from(value).unwrap_or(0));
        value.zeroize();
    }
    Ok(ClusterKey { epoch, secret: secret.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A generated secret is read back, is private, is not overwritten, and gets the next epoch by force.
    #[test]
    fn generate_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert_eq!(generate(&path, false).unwrap(), 1);
        let first = read(&path).unwrap();
        assert_eq!((first.len(), first[0].epoch, first[0].secret.len()), (1, 1, SECRET_LEN));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(matches!(generate(&path, false), Err(SecretError::Exists { .. })));
        assert_eq!(read(&path).unwrap(), first);
        assert_eq!(generate(&path, true).unwrap(), 2);
        let second = read(&path).unwrap();
        assert_eq!(second[0].epoch, 2);
        assert_ne!(second[0].secret, first[0].secret);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "no temporary file stays");
    }

    /// A rotation puts the next secret behind the old one, and retiring leaves the new one alone; each is refused where it
    /// makes no sense. The epoch behind 255 is 1.
    #[test]
    fn rotate_and_retire() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(matches!(rotate(&path), Err(SecretError::Unreadable { .. })));
        generate(&path, false).unwrap();
        let old = read(&path).unwrap();
        let refused = retire(&path).unwrap_err().to_string();
        assert!(refused.contains("epoch 1") && refused.contains("--rotate"), "{refused}");
        assert_eq!(rotate(&path).unwrap(), [1, 2]);
        let both = read(&path).unwrap();
        assert_eq!((&both[0], both[1].epoch, both.len()), (&old[0], 2, 2));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let refused = rotate(&path).unwrap_err().to_string();
        assert!(refused.contains("epochs 1 and 2") && refused.contains("--retire"), "{refused}");
        assert_eq!(retire(&path).unwrap(), [1, 2]);
        assert_eq!(read(&path).unwrap(), both[1..]);
        write(&path, true, &[ClusterKey { epoch: 255, ..old[0].clone() }]).unwrap();
        assert_eq!(rotate(&path).unwrap(), [255, 1]);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "no temporary file stays");
    }

    /// A file that others may read is refused with the command that cures it.
    #[test]
    fn exposed_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        generate(&path, false).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    }

    /// Every malformed content is refused, none panics.
    #[test]
    fn malformed_contents() {
        let hex = "ab".repeat(SECRET_LEN);
        let right = parse(format!("{FORMAT} 7 {hex}\n\n{FORMAT} 8 {hex}").as_bytes()).unwrap();
        assert_eq!((right[0].epoch, &*right[0].secret, right[1].epoch), (7, &[0xab; SECRET_LEN][..], 8));
        let wrong = [
            String::new(),
            format!("twinwall-secret-v2 1 {hex}"),
            FORMAT.to_owned(),
            format!("{FORMAT} 0 {hex}"),
            format!("{FORMAT} 256 {hex}"),
            format!("{FORMAT} 1 {}", &hex[2..]),
            format!("{FORMAT} 1 {hex} more"),
            format!("{FORMAT} 1 {hex}\n{FORMAT} 1 {hex}"),
            format!("{FORMAT} 1 {hex}\n{FORMAT} 2 {hex}\n{FORMAT} 3 {hex}"),
            format!("{FORMAT} 1 {hex}\n{FORMAT} 2"),
            format!("{FORMAT} 1 {}", "é".repeat(SECRET_LEN)),
        ];
        for text in wrong {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(&[0xff, 0xfe]).is_err());
    }
}
