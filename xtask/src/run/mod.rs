//! `cargo xtask run`: the pair in namespaces, real sessions through it, and what a client sees when a node fails.

mod report;
mod scenario;
mod timeline;
mod watch;

use anyhow::{Context, Result, bail};
use clap::Args;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::topology::{Naming, Node, SERVER};
use ha_tests::traffic::{Load, Traffic};
use report::{Direction, Report};
pub use scenario::Scenario;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use timeline::Timeline;
use watch::Watch;

/// The longest that a takeover may take before the run gives up: CARP's dead time is 3 s.
const TAKEOVER_MAX: Duration = Duration::from_secs(10);
/// The longest until every session has gone on: TCP tries again 6.2 s after its last packet when 3 s were not enough.
const SESSIONS_MAX: Duration = Duration::from_secs(15);
/// The longest until a node that came back is in sync.
const RETURN_MAX: Duration = Duration::from_secs(20);

/// Shows two failovers (each node fails once) under real sessions.
#[derive(Args, Debug)]
#[command(after_help = "Example: cargo xtask run --scenario lan-link --sessions 50")]
pub struct RunArgs {
    /// What happens to the master.
    #[arg(long, value_enum, default_value_t = Scenario::Crash)]
    scenario: Scenario,
    /// One JSON object on standard output at the end; the timeline goes to standard error.
    #[arg(long)]
    json: bool,
    /// Leave the lab up afterwards and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// TCP sessions, and as many UDP flows; a tenth as many pings.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=2000))]
    sessions: u16,
}

/// Builds what is needed, runs the scenario and cleans up; fails when a session was lost.
///
/// # Errors
/// Without root, when the build fails, when the pair does not settle, or when interrupted.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    ha_tests::netns::require_root()?;
    let interrupted = on_signals()?;
    crate::build::daemon(crate::setup::Scope::Lab)?;
    let naming = if args.keep { Naming::Kept } else { Naming::OfProcess };
    let mut lab = Lab::new(&Settings::default(), naming)?;
    let outcome = Show::begin(&mut lab, args, interrupted).and_then(Show::play);
    if args.keep {
        lab.keep()?;
        eprint!("{}", crate::lab::how_to_enter());
    }
    let report = outcome?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(if report.all_survived() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A flag that SIGINT and SIGTERM set, so that the lab is removed by the ordinary way out; a second one ends at once.
pub fn on_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// A run in progress.
struct Show<'a> {
    lab: &'a mut Lab,
    scenario: Scenario,
    traffic: Traffic,
    watch: Watch,
    timeline: Timeline,
    interrupted: Arc<AtomicBool>,
}

impl<'a> Show<'a> {
    /// Brings the pair up and opens the sessions.
    fn begin(lab: &'a mut Lab, args: &RunArgs, interrupted: Arc<AtomicBool>) -> Result<Self> {
        let timeline = Timeline::new(args.json);
        timeline.say("the pair starts: client ── LAN ── fw1, fw2 ── WAN ── server");
        lab.start(Node::Fw1)?;
        lab.start(Node::Fw2)?;
        wait(&interrupted, RETURN_MAX, "the pair settles", || lab.settled_on(&lab.answers()).is_some())?;
        let pings = args.sessions.div_ceil(10);
        let sessions = usize::from(args.sessions);
        let load = Load { tcp: sessions, udp: sessions, icmp: usize::from(pings), ..Load::default() };
        let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load)?;
        timeline.say(&format!("{sessions} TCP sessions, {sessions} UDP flows and {pings} pings talk through it"));
        timeline.header();
        let watch = Watch::start(lab)?;
        Ok(Self { lab, scenario: args.scenario, traffic, watch, timeline, interrupted })
    }

    /// Both directions, and the report.
    fn play(mut self) -> Result<Report> {
        self.pass(Duration::from_millis(1500))?;
        let first = self.fail_master()?;
        self.be_master(first.failed.peer())?;
        self.pass(Duration::from_secs(1))?;
        let second = self.fail_master()?;
        let since = self.traffic.now();
        let _ = self.until(SESSIONS_MAX, |show| show.traffic.all_survived(since))?;
        let nodes = Node::BOTH.map(|node| report::NodeEnd::of(self.lab, node));
        Ok(Report::new(self.scenario, &self.traffic, since, vec![first, second], nodes))
    }

    /// Fails the node that holds the addresses now, waits for the other one, brings it back.
    fn fail_master(&mut self) -> Result<Direction> {
        let failed = self.settled_on().context("nobody is master alone")?;
        let quiet = self.traffic.now();
        self.pass(Duration::from_millis(500))?;
        let fault = self.traffic.now();
        let noise = self.traffic.probe().longest_gap(quiet, fault);
        let (sent, received) = (self.traffic.probe().sent(), self.traffic.probe().received());
        self.timeline.event(&self.scenario.story(failed));
        self.timeline.hurry(true);
        self.scenario.strike(self.lab, failed)?;
        let taken = self.until(TAKEOVER_MAX, |show| show.lab.holds(failed.peer()))?;
        let takeover = self.traffic.now();
        if !taken {
            bail!(
                "{} did not take over within {TAKEOVER_MAX:?}:\n{}",
                failed.peer().name(),
                self.lab.files(failed.peer()).log_tail()
            );
        }
        self.timeline.event(&format!("{} holds the virtual addresses", failed.peer().name()));
        let all = self.until(SESSIONS_MAX, |show| show.traffic.all_survived(takeover))?;
        let end = self.traffic.now();
        let gap = self.traffic.probe().longest_gap(fault, end);
        let lost = (self.traffic.probe().sent() - sent).saturating_sub(self.traffic.probe().received() - received);
        self.timeline.event(&if all {
            format!("every session goes on; the longest silence was {:.1} ms", gap.milliseconds())
        } else {
            format!("sessions are lost: {}", self.traffic.casualties(takeover))
        });
        let kinds = report::by_kind(&self.traffic, takeover);
        self.timeline.hurry(false);
        let returned = self.bring_back(failed)?;
        Ok(Direction {
            failed,
            took_over: failed.peer(),
            outage_ms: gap.milliseconds(),
            takeover_ms: Duration::from_nanos(takeover - fault).as_secs_f64() * 1e3,
            lost_probes: lost,
            quiet_gap_ms: noise.milliseconds(),
            return_gap_ms: returned,
            kinds,
        })
    }

    /// The failed node comes back and the pair settles; the longest silence meanwhile, milliseconds.
    fn bring_back(&mut self, node: Node) -> Result<f64> {
        let begin = self.traffic.now();
        self.timeline.event(&self.scenario.sequel(node));
        self.scenario.mend(self.lab, node)?;
        if !self.until(RETURN_MAX, |show| show.settled_on().is_some())? {
            bail!(
                "the pair does not settle after {} is back: {}",
                node.name(),
                self.lab.describe(&self.watch.answers())
            );
        }
        let master = self.settled_on().map_or("?", Node::name);
        self.timeline.event(&format!("{} is back, both tables are in sync, {master} is master", node.name()));
        Ok(self.traffic.probe().longest_gap(begin, self.traffic.now()).milliseconds())
    }

    /// Where the returned node has won the addresses back, its daemon is restarted, so that the other one fails next.
    fn be_master(&mut self, wanted: Node) -> Result<()> {
        if self.settled_on() == Some(wanted) {
            return Ok(());
        }
        self.timeline.event(&format!(
            "{} won the addresses back; it restarts, so that {} fails next",
            wanted.peer().name(),
            wanted.name()
        ));
        self.lab.stop(wanted.peer())?;
        self.until(TAKEOVER_MAX, |show| show.lab.holds(wanted))?;
        self.lab.start(wanted.peer())?;
        if !self.until(RETURN_MAX, |show| show.settled_on() == Some(wanted))? {
            bail!("the pair does not settle on {}: {}", wanted.name(), self.lab.describe(&self.watch.answers()));
        }
        Ok(())
    }

    /// The master, when all is well.
    fn settled_on(&self) -> Option<Node> {
        self.lab.settled_on(&self.watch.answers())
    }

    /// Lets time pass on the timeline.
    fn pass(&mut self, duration: Duration) -> Result<()> {
        self.until(duration, |_| false).map(drop)
    }

    /// Draws the timeline until `done` or until `limit` has passed; whether it was done.
    fn until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if done(self) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.timeline.tick(&self.traffic, &self.watch, self.lab);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits without a timeline.
fn wait(interrupted: &AtomicBool, limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
