//! Many seeds on several threads, and what came of them.

use crate::checks::Facts;
use crate::faults::Fault;
use crate::options::Kind;
use crate::run::{Outcome, run};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures shown.
const SHOWN_MAX: usize = 3;
/// One seed in so many is run twice, and must be the same.
const TWICE: u64 = 50;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the words of panics for [`take_panic`], and prints none.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| PANIC.with_borrow_mut(|panic| *panic = info.to_string())));
}

/// The words of this thread's last panic.
pub fn take_panic() -> String {
    PANIC.take()
}

pub struct Plan {
    pub first: u64,
    pub seeds: u64,
    pub jobs: usize,
    /// These are left out.
    pub skip: Vec<u64>,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// Of the timeline of a failure.
    pub lines: usize,
}

/// Sums over all seeds.
pub struct Report {
    pub seeds: u64,
    pub elapsed: Duration,
    pub simulated: Duration,
    pub kinds: BTreeMap<Kind, u64>,
    pub faults: [u64; Fault::ALL.len()],
    pub facts: Facts,
    pub tallies: BTreeMap<&'static str, u64>,
    pub slowest_peace: (Duration, u64),
    pub twice: u64,
    pub failures: Vec<Outcome>,
}

/// Runs the seeds.
pub fn survey(plan: &Plan) -> Report {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let report = Mutex::new(Report::new());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= plan.seeds || plan.fail_fast && failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if plan.skip.contains(&(plan.first + at)) {
                        continue;
                    }
                    let outcome = once_or_twice(plan.first + at, plan.lines);
                    failed.fetch_or(outcome.failure.is_some(), Ordering::Relaxed);
                    if let Ok(mut report) = report.lock() {
                        report.add(outcome);
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.elapsed = begin.elapsed();
    report.failures.sort_by_key(|outcome| outcome.seed);
    report
}

/// Some seeds are run again: everything must happen as before.
fn once_or_twice(seed: u64, lines: usize) -> Outcome {
    let mut outcome = run(seed, lines);
    if seed.is_multiple_of(TWICE) && outcome.failure.is_none() {
        let again = run(seed, lines);
        if again.digest != outcome.digest {
            outcome.failure = Some(crate::run::Failure {
                violation: crate::checks::Violation {
                    check: "repeatable",
                    detail: format!("two runs differ: {:x} and {:x}", outcome.digest, again.digest),
                },
                options: String::new(),
                timeline: String::new(),
            });
        }
    }
    outcome
}

impl Report {
    fn new() -> Self {
        Self {
            seeds: 0,
            elapsed: Duration::ZERO,
            simulated: Duration::ZERO,
            kinds: BTreeMap::new(),
            faults: [0; Fault::ALL.len()],
            facts: Facts::default(),
            tallies: BTreeMap::new(),
            slowest_peace: (Duration::ZERO, 0),
            twice: 0,
            failures: Vec::new(),
        }
    }

    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.twice += u64::from(outcome.seed.is_multiple_of(TWICE));
        self.simulated += outcome.simulated;
        *self.kinds.entry(outcome.kind).or_default() += 1;
        self.faults.iter_mut().zip(outcome.faults).for_each(|(sum, faults)| *sum += faults);
        self.facts.add(&outcome.facts);
        for (name, count) in &outcome.tallies.0 {
            *self.tallies.entry(name).or_default() += count;
        }
        self.slowest_peace = self.slowest_peace.max((outcome.settled_after, outcome.seed));
        if outcome.failure.is_some() {
            self.failures.push(outcome);
        }
    }

    /// Checks that failed, by name, and the seeds of each.
    pub fn failed_checks(&self) -> BTreeMap<&'static str, Vec<u64>> {
        let mut checks: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for outcome in &self.failures {
            if let Some(failure) = &outcome.failure {
                checks.entry(failure.violation.check).or_default().push(outcome.seed);
            }
        }
        checks
    }

    /// For people.
    pub fn print(&self) {
        for outcome in self.failures.iter().take(SHOWN_MAX) {
            print_failure(outcome);
        }
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        println!(
            "{} seeds in {seconds:.1} s ({:.0} a second), {:.0} s simulated, {} of them twice with the same result",
            self.seeds,
            self.seeds as f64 / seconds,
            self.simulated.as_secs_f64(),
            self.twice
        );
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
        println!("kinds: {}", kinds.join(", "));
        let faults: Vec<_> =
            Fault::ALL.iter().map(|(fault, _)| format!("{} {}", self.faults[*fault as usize], fault.name())).collect();
        println!("faults: {}", faults.join(", "));
        let tallies: Vec<_> = self.tallies.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!("seen: {}", tallies.join(", "));
        println!(
            "two gates at most {:?} in a hand-over, {:?} where nothing connects; {} audits of quiet tables; {} flows back from a peer that had them",
            self.facts.overlap, self.facts.excused, self.facts.audits, self.facts.created_after_end
        );
        println!("longest way to peace {:?} (seed {})", self.slowest_peace.0, self.slowest_peace.1);
        for (check, seeds) in self.failed_checks() {
            let shown: Vec<_> = seeds.iter().take(12).map(u64::to_string).collect();
            println!("FAILED {check}: {} seeds: {}", seeds.len(), shown.join(" "));
        }
    }

    /// For programs: one object.
    pub fn print_json(&self) {
        let pairs = |pairs: Vec<(String, String)>| {
            let fields: Vec<_> = pairs.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", fields.join(","))
        };
        let faults =
            Fault::ALL.iter().map(|(fault, _)| (fault.name().to_owned(), self.faults[*fault as usize].to_string()));
        let tallies = self.tallies.iter().map(|(name, count)| ((*name).to_owned(), count.to_string()));
        let kinds = self.kinds.iter().map(|(kind, count)| (kind.name().to_owned(), count.to_string()));
        let failed = self.failed_checks().into_iter().map(|(check, seeds)| (check.to_owned(), format!("{seeds:?}")));
        let fields = vec![
            ("seeds".to_owned(), self.seeds.to_string()),
            ("seconds".to_owned(), format!("{:.3}", self.elapsed.as_secs_f64())),
            ("simulated_seconds".to_owned(), format!("{:.3}", self.simulated.as_secs_f64())),
            ("run_twice".to_owned(), self.twice.to_string()),
            ("kinds".to_owned(), pairs(kinds.collect())),
            ("faults".to_owned(), pairs(faults.collect())),
            ("seen".to_owned(), pairs(tallies.collect())),
            ("audits".to_owned(), self.facts.audits.to_string()),
            ("longest_peace_seconds".to_owned(), format!("{:.3}", self.slowest_peace.0.as_secs_f64())),
            ("failed".to_owned(), pairs(failed.collect())),
        ];
        println!("{}", pairs(fields));
    }
}

fn print_failure(outcome: &Outcome) {
    let Some(failure) = &outcome.failure else { return };
    println!("== seed {}: {}: {}", outcome.seed, failure.violation.check, failure.violation.detail);
    println!("options: {}", failure.options);
    println!("the last that happened:\n{}", failure.timeline);
    println!("again: cargo xtask sim --seed {}\n", outcome.seed);
}
