//! The cluster's shared secret: one line `twinwall-secret-v1 EPOCH HEX` in a file that only root reads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// First word of the file.
const FORMAT: &str = "twinwall-secret-v1";
/// Bytes of key material.
pub const SECRET_LEN: usize = 32;
/// A right file has at most 88 bytes; what is much longer is another file.
const FILE_BYTES_MAX: u64 = 256;

/// Key material, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// 1 to 255; stands in every frame header, so that a frame of another secret is refused by name.
    pub epoch: u8,
    pub key: Zeroizing<Vec<u8>>,
}

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
    #[error("cannot write {}: {source}", file.display())]
    Unwritable { file: PathBuf, source: std::io::Error },
    #[error("the kernel gives no random bytes: {0}")]
    NoRandomness(String),
}

/// Reads the secret from a file that nobody but its owner may read.
///
/// # Errors
/// When the file is missing, readable by group or others, or not of the format.
pub fn read(path: &Path) -> Result<Secret, SecretError> {
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
pub fn generate(path: &Path, force: bool) -> Result<Secret, SecretError> {
    let epoch = match read(path) {
        // The next epoch tells frames of the old secret from forgeries while the nodes are changed over.
        Ok(old) => old.epoch.checked_add(1).unwrap_or(1),
        Err(_) => 1,
    };
    let mut key = Zeroizing::new(vec![0; SECRET_LEN]);
    getrandom::fill(&mut key).map_err(|error| SecretError::NoRandomness(error.to_string()))?;
    let secret = Secret { epoch, key };
    write(path, force, &secret)?;
    Ok(secret)
}

fn write(path: &Path, force: bool, secret: &Secret) -> Result<(), SecretError> {
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
        .write_all(emit(secret).as_bytes())
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

fn emit(secret: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("{FORMAT} {} ", secret.epoch));
    text.reserve(2 * SECRET_LEN + 1);
    for byte in secret.key.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    text
}

fn parse(text: &[u8]) -> Result<Secret, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let mut words = text.split_ascii_whitespace();
    if words.next() != Some(FORMAT) {
        return Err("it does not begin with twinwall-secret-v1");
    }
    let epoch = words.next().and_then(|word| word.parse().ok()).filter(|epoch| *epoch != 0);
    let epoch = epoch.ok_or("its second word is not an epoch from 1 to 255")?;
    let digits = words.next().filter(|word| word.len() == 2 * SECRET_LEN);
    let digits = digits.ok_or("its third word does not have 64 hexadecimal digits")?;
    if words.next().is_some() {
        return Err("more than three words are in it");
    }
    let mut key = Zeroizing::new(Vec::with_capacity(SECRET_LEN));
    for pair in digits.as_bytes().chunks_exact(2) {
        let mut value = 0;
        for &digit in pair {
            let digit = char::from(digit).to_digit(16).ok_or("its third word has other than hexadecimal digits")?;
            value = value * 16 + digit;
        }
        key.push(u8::try_from(value).unwrap_or(0));
        value.zeroize();
    }
    Ok(Secret { epoch, key })
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
        let first = generate(&path, false).unwrap();
        assert_eq!(read(&path).unwrap(), first);
        assert_eq!(first.epoch, 1);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(matches!(generate(&path, false), Err(SecretError::Exists { .. })));
        assert_eq!(read(&path).unwrap(), first);
        let second = generate(&path, true).unwrap();
        assert_eq!(second.epoch, 2);
        assert_ne!(second.key, first.key);
        assert_eq!(read(&path).unwrap(), second);
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
        assert_eq!(parse(format!("{FORMAT} 7 {hex}\n").as_bytes()).unwrap().key.as_slice(), [0xab; SECRET_LEN]);
        let wrong = [
            String::new(),
            format!("twinwall-secret-v2 1 {hex}"),
            FORMAT.to_owned(),
            format!("{FORMAT} 0 {hex}"),
            format!("{FORMAT} 256 {hex}"),
            format!("{FORMAT} 1 {}", &hex[2..]),
            format!("{FORMAT} 1 {hex} more"),
            format!("{FORMAT} 1 {}", "é".repeat(SECRET_LEN)),
        ];
        for text in wrong {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(&[0xff, 0xfe]).is_err());
    }
}
