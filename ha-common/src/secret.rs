//! Passwords and keys: wiped from memory when dropped, and never shown.

use core::fmt;
use core::ops::Deref;
use zeroize::Zeroizing;

/// Secret bytes. `Debug` hides them, so that no log line or test failure can tell them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl Deref for Secret {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// How many keys of a cluster are valid at a time: the one that is in use, and the one that takes its place.
pub const KEYS_MAX: usize = 2;

/// A secret of a cluster, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterKey {
    /// Stands in every frame that is keyed with it.
    pub epoch: u8,
    pub secret: Secret,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    /// What is printed tells neither the bytes nor how many they are.
    #[test]
    fn debug_hides_the_bytes() {
        assert_eq!(format!("{:?}", Secret::from(b"toto".to_vec())), "Secret(…)");
    }
}
