//! The short version that every run of the tests has.

use crate::mutations::{ALL, place};
use crate::report::{Plan, keep_panics, survey};
use crate::run::{LINES, run};

/// Seeds 0 to 59: nothing that must hold is broken, and nothing that is to be exercised is left out.
#[test]
fn sixty_seeds() {
    keep_panics();
    let report = survey(&Plan { first: 0, seeds: 60, jobs: 2, skip: Vec::new(), fail_fast: false, lines: LINES });
    report.print();
    assert!(report.failures.is_empty(), "{:?}", report.failed_checks());
    for (fault, _) in crate::faults::Fault::ALL {
        assert!(report.faults[*fault as usize] > 0, "never happened: {}", fault.name());
    }
    for (name, count) in &report.tallies {
        assert!(*count > 0, "never seen: {name}");
    }
    assert!(report.facts.audits > 0);
}

/// A seed decides everything: the hash of all that happens is the same in a second run, and another for another seed.
#[test]
fn a_seed_decides_everything() {
    keep_panics();
    let digests: Vec<u64> = (1000..1006).map(|seed| run(seed, LINES).digest).collect();
    for (seed, digest) in (1000..1006).zip(&digests) {
        assert_eq!(run(seed, LINES).digest, *digest, "seed {seed}");
    }
    assert!(digests.windows(2).all(|pair| pair[0] != pair[1]));
}

/// Every mutation still fits the code: its text is there exactly once, and the bug is another text.
#[test]
fn mutations_fit_the_code() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let misfits: Vec<String> = ALL
        .iter()
        .filter_map(|mutation| {
            let source = std::fs::read_to_string(sources.join(mutation.file)).unwrap_or_default();
            let is_told = mutation.text != mutation.replacement && !mutation.breaks.is_empty();
            place(mutation, &source).err().or_else(|| (!is_told).then(|| mutation.name.into()))
        })
        .collect();
    assert!(misfits.is_empty(), "{misfits:#?}");
    assert!(ALL.len() >= 25);
}
