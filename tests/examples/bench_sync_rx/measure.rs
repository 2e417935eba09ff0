//! Every figure of every way, round after round.

use crate::frames::Sealer;
use crate::load::{FRAMES_MAX, Load, thread_ns};
use crate::rig::Link;
use crate::trial::{Bench, Outcome, Setup};
use anyhow::{Result, ensure};
use ha_tests::bench::stats::{Summary, rounded};
use ha_tests::bench::sync::report::{Conditions, Line};
use ha_tests::bench::sync::usage::load_average;
use ha_tests::bench::sync_rx::{self as figures, Figure, Options, Way, measure};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the search of the highest loss-free rate begins, and where it ends, frames a second.
const SEARCH: [u32; 3] = [1_000, 50_000, 3_200_000];
/// More than any way can take, frames a second.
const OVERLOAD: u32 = 500_000;
/// The search ends when the lowest rate with loss is so near to the highest without.
const NEAR: f64 = 1.08;
/// A rate holds when one of so many tries lost nothing: other work on the machine makes frames wait as well.
const TRIES: usize = 3;
/// A sender that reaches less of a rate has not tried it.
const REACHED: f64 = 0.95;
/// Before anything is measured.
const WARM_UP: Load = Load { rate: 2_000, frames: 100, size: 200 };
/// Different frames that are opened again and again, and how often all of them are.
const OPENED: u64 = 64;
const OPENINGS: u64 = 200;

/// The rounds' values by way, measure and rate.
type Values = BTreeMap<(String, String, u64), (Figure, Vec<f64>)>;

/// Runs every round. Round n of every way comes before round n + 1 of any, and each begins with another way.
///
/// When interrupted, the lines hold what was complete by then.
///
/// # Errors
/// When nothing could be measured; a way that fails is part of the lines.
pub fn all(options: &Options, interrupted: &AtomicBool) -> Result<Vec<Line>> {
    let (mut values, mut failures, mut loads) = (Values::new(), Vec::new(), Vec::new());
    'all: for round in 0..usize::from(options.rounds) {
        let mut ways = options.ways.clone();
        let first = round % ways.len().max(1);
        ways.rotate_left(first);
        for way in ways {
            loads.push(load_average());
            eprintln!("{:>4}/{} {way}", round + 1, options.rounds);
            let link = Link::new()?;
            let measured = link.receiver.enter(|| one(&link, way, options, interrupted));
            match measured? {
                Ok(notes) => {
                    for (figure, size, at, value) in notes {
                        let key = (options.mode.tool(way), measure(figure, size), at);
                        values.entry(key).or_insert((figure, Vec::new())).1.push(value);
                    }
                }
                Err(_) if interrupted.load(Ordering::Relaxed) => {
                    eprintln!("interrupted: the figures are those of the rounds that were complete by now");
                    break 'all;
                }
                Err(error) => {
                    eprintln!("          not measured: {error:#}");
                    failures.push((options.mode.tool(way), format!("{error:#}")));
                }
            }
        }
    }
    lines(values, failures, Summary::of(loads).map(|load| load.median))
}

fn lines(values: Values, failures: Vec<(String, String)>, load: Option<f64>) -> Result<Vec<Line>> {
    let with = Conditions::of_machine(0)?;
    let line = |tool: String, measure: String, at: u64, unit: &str, values: Vec<f64>, failed: Vec<String>| Line {
        tool,
        measure,
        at,
        value: Summary::of(values.iter().copied()).map(|summary| summary.median),
        unit: unit.to_owned(),
        values,
        failed,
        load,
        with: with.clone(),
    };
    let measured = values.into_iter().map(|((tool, measure, at), (figure, values))| {
        let values = values.into_iter().map(rounded).collect();
        line(tool, measure, at, figure.unit, values, Vec::new())
    });
    let failed =
        failures.into_iter().map(|(tool, reason)| line(tool, "round".to_owned(), 0, "", Vec::new(), vec![reason]));
    let lines: Vec<Line> = measured.chain(failed).collect();
    ensure!(lines.iter().any(|line| line.value.is_some()), "nothing could be measured");
    Ok(lines)
}

/// A figure with the payload's size and the rate.
type Note = (Figure, u16, u64, f64);

/// Everything of one way, once.
fn one(link: &Link, way: Way, options: &Options, interrupted: &AtomicBool) -> Result<Vec<Note>> {
    let setup =
        Setup { mode: options.mode, way, is_pinned: true, is_compared: false, is_stalled: false, is_timed: true };
    let mut bench = Bench::new(link, setup)?;
    let mut run = |load: Load| {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        bench.run(load)
    };
    run(WARM_UP)?;
    let mut notes = Vec::new();
    for size in options.sizes.iter().copied() {
        notes.push((figures::OPENING, size, 0, opening(size)?));
        for rate in options.rates.iter().copied() {
            let duration = Duration::from_millis(options.steady_ms.into());
            let outcome = run(at_rate(rate, duration, size))?;
            notes.extend(steady(size, rate, &outcome));
        }
        let outcome = run(Load { rate: OVERLOAD, frames: FRAMES_MAX, size })?;
        notes.extend(overload(size, &outcome));
        let step = Duration::from_millis(options.step_ms.into());
        let rate = loss_free(|rate| run(at_rate(rate, step, size)))?;
        notes.push((figures::LOSS_FREE, size, 0, rate));
    }
    Ok(notes)
}

/// Frames at a rate for about so long.
fn at_rate(rate: u32, duration: Duration, size: u16) -> Load {
    let frames = (duration.as_secs_f64() * f64::from(rate)) as usize;
    Load { rate, frames: frames.min(FRAMES_MAX), size }
}

fn steady(size: u16, rate: u32, outcome: &Outcome) -> Vec<Note> {
    let frames = outcome.opened.max(1) as f64;
    let each_us = |ns: u64| ns as f64 / 1e3 / frames;
    let note = |figure, value| (figure, size, u64::from(rate), value);
    let mut notes = vec![
        note(figures::CPU, each_us(outcome.thread_ns + outcome.softirq_ns)),
        note(figures::CPU_THREAD, each_us(outcome.thread_ns)),
        note(figures::CPU_SOFTIRQ, each_us(outcome.softirq_ns)),
        note(figures::CPU_SENDER, each_us(outcome.sent.cpu_ns)),
        note(figures::SLEEPS, outcome.sleeps as f64 / outcome.sent.took.as_secs_f64()),
    ];
    let mut sorted: Vec<u64> = outcome.latencies_ns.clone();
    sorted.sort_unstable();
    for (figure, percent) in [(figures::LATENCY_P50, 50), (figures::LATENCY_P99, 99)] {
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        notes.extend(sorted.get(rank).map(|ns| note(figure, *ns as f64 / 1e3)));
    }
    notes
}

fn overload(size: u16, outcome: &Outcome) -> Vec<Note> {
    let percent = |frames: u64| frames as f64 * 100.0 / outcome.sent.frames.max(1) as f64;
    let cpu_us = (outcome.thread_ns + outcome.softirq_ns) as f64 / 1e3;
    let opened = outcome.opened.max(1) as f64;
    [
        (figures::OVER_OPENED, opened / outcome.span.as_secs_f64().max(1e-9)),
        (figures::OVER_SENT, outcome.sent_rate()),
        (figures::OVER_LOST_CABLE, percent(outcome.lost_on_cable())),
        (figures::OVER_LOST_BEHIND, percent(outcome.lost_behind())),
        (figures::OVER_CPU, cpu_us / opened),
    ]
    .map(|(figure, value)| (figure, size, u64::from(OVERLOAD), value))
    .into()
}

/// The highest rate that the sender reached and of which nothing was lost: doubled until something is, then narrowed down.
fn loss_free(mut trial: impl FnMut(u32) -> Result<Outcome>) -> Result<f64> {
    let mut holds = |rate: u32| -> Result<Option<f64>> {
        for _ in 0..TRIES {
            let outcome = trial(rate)?;
            if outcome.sent_rate() < REACHED * f64::from(rate) {
                return Ok(None);
            }
            if outcome.lost() == 0 {
                return Ok(Some(outcome.sent_rate()));
            }
        }
        Ok(None)
    };
    let [least, begin, most] = SEARCH;
    let (mut best, mut low, mut high) = (0.0, least, None);
    let mut rate = begin;
    while rate <= most && high.is_none_or(|high| f64::from(high) > f64::from(low) * NEAR) {
        match holds(rate)? {
            Some(reached) => {
                (best, low) = (reached, rate);
            }
            None => high = Some(rate),
        }
        rate = high.map_or(rate * 2, |high| u32::midpoint(low, high));
    }
    ensure!(best > 0.0, "frames are lost even at {low} a second");
    Ok(best)
}

/// What opening a frame of this size takes by itself, microseconds.
fn opening(size: u16) -> Result<f64> {
    let sealer = Sealer::new();
    let frames = (1..=OPENED).map(|sequence| sealer.seal(sequence, size.into())).collect::<Result<Vec<_>>>()?;
    let mut body = Vec::new();
    let before = thread_ns();
    for _ in 0..OPENINGS {
        for frame in &frames {
            ensure!(sealer.open(black_box(frame), &mut body).is_ok(), "a frame cannot be opened");
        }
    }
    Ok((thread_ns() - before) as f64 / 1e3 / (OPENED * OPENINGS) as f64)
}
