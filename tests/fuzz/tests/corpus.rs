//! What the fuzzer has found so far, again and with random changes: nothing of it may make a target panic. The targets are
//! the very functions that `cargo xtask fuzz` drives.

use ha_fuzz::{TARGETS, Target};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Changed inputs for each target.
const CHANGED: usize = 4000;
/// What is allocated is counted for the whole process: one target at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of the inputs with one to four changes: bits, bytes, numbers at their limits, parts left out, doubled or of another.
    fn changed(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below(bytes.len() + 1 - at);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 => {
                    let limits =
                        [[0u8; 8], [0xff; 8], (i64::MAX).to_le_bytes(), 1u64.to_le_bytes(), 1u64.to_be_bytes()];
                    let (limit, length) = (limits[self.below(limits.len())], 1 << self.below(4));
                    let place = at..(at + length).min(bytes.len());
                    bytes[place].iter_mut().zip(limit).for_each(|(to, from)| *to = from);
                }
                3 => drop(bytes.drain(at..end)),
                4 if end - at < 512 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len() + 1);
                    bytes.splice(at..end, other[from..].iter().copied());
                }
            }
        }
        bytes.truncate(4096);
        bytes
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let listed = directory.read_dir().unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs one input; a panic tells which.
fn give(target: &Target, input: &[u8], what: &str) {
    let ran = std::panic::catch_unwind(|| target.run(input));
    assert!(ran.is_ok(), "{}: {what}: {input:02x?}", target.name);
}

fn replay(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = Target::named(name).unwrap();
    let corpus = corpus(name);
    assert!(corpus.len() >= 3, "{name} has a corpus of {}", corpus.len());
    give(&target, &[], "nothing at all");
    for (path, input) in &corpus {
        give(&target, input, &path.display().to_string());
    }
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let mut random = Random(0x7477_696e_7761_6c6c);
    for round in 0..CHANGED {
        let input = random.changed(&inputs);
        give(&target, &input, &format!("change {round}"));
    }
}

macro_rules! replay {
    ($($name:ident),* $(,)?) => {
        $(
            /// Every input that reached something new, and 4,000 changes of them, hold.
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        /// No target is without a replay.
        #[test]
        fn every_target_is_replayed() {
            let mut replayed = vec![$(stringify!($name)),*];
            let mut names = TARGETS.map(|target| target.name);
            replayed.sort_unstable();
            names.sort_unstable();
            assert_eq!(replayed, names);
        }
    };
}

replay! {
    packet, election, heartbeat, datagram, sealed, message, conntrack, answers, route, filter, config, secret, request, reply,
}

/// The corpora stay small enough to be looked through and to be carried by every clone: two megabytes in all.
#[test]
fn corpora_are_small() {
    let bytes: usize = TARGETS.iter().flat_map(|target| corpus(target.name)).map(|(_, input)| input.len()).sum();
    assert!(bytes < 2 << 20, "{bytes} bytes");
}
