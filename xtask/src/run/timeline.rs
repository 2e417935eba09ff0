//! The live picture: a line each 200 ms while it matters, each second while it does not.

use super::watch::Watch;
use ha_tests::daemon::Status;
use ha_tests::lab::{Answers, Lab};
use ha_tests::topology::Node;
use ha_tests::traffic::Traffic;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Width of a bin of the sparkline.
const BIN: Duration = Duration::from_millis(10);
/// Bins of the sparkline: 200 ms.
const BINS: usize = 20;
/// Steps of the sparkline; the probe's replies per bin reach the last one when none is missing.
const STEPS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Replies per bin of an undisturbed probe.
const FULL: u32 = 10;
/// A session that has had a reply this recently talks.
const RECENT: Duration = Duration::from_millis(500);

/// Draws lines; colours only where a person watches.
pub struct Timeline {
    to_stderr: bool,
    colours: bool,
    hurry: bool,
    next: u64,
    last: String,
}

#[derive(Clone, Copy)]
enum Colour {
    Green,
    Red,
    Yellow,
    Dim,
}

impl Timeline {
    /// A timeline on standard output, or on standard error where that is needed for JSON.
    pub fn new(to_stderr: bool) -> Self {
        let terminal = if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { to_stderr, colours, hurry: false, next: 0, last: String::new() }
    }

    /// A plain line.
    pub fn say(&self, text: &str) {
        self.line(text);
    }

    /// What the columns mean.
    pub fn header(&self) {
        let legend = "    time  fw1            fw2            talking  replies per 10 ms     sync lag   (●● holds the LAN and WAN address)";
        self.line(&self.paint(Colour::Dim, legend));
    }

    /// Something that happened, set off from the lines of numbers.
    pub fn event(&mut self, text: &str) {
        self.line(&self.paint(Colour::Yellow, &format!("── {text}")));
        self.next = 0;
    }

    /// A line each 200 ms from now on, or each second.
    pub fn hurry(&mut self, hurry: bool) {
        self.hurry = hurry;
    }

    /// Draws a line if it is time, or if a role or address has changed.
    pub fn tick(&mut self, traffic: &Traffic, watch: &Watch, lab: &Lab) {
        let now = traffic.now();
        let answers = watch.answers();
        let nodes = Node::BOTH.map(|node| {
            let held = lab.pair.vips_held(node).unwrap_or_default();
            node_column(node, answers[node.index()].as_ref().map(Status::role), held)
        });
        let state = nodes.concat();
        if now < self.next && state == self.last {
            return;
        }
        self.last = state;
        self.next = now + if self.hurry { 200_000_000 } else { 1_000_000_000 };
        let [fw1, fw2] = nodes;
        self.line(&format!(
            "{:6.1} s  {}  {}  {}  {}  {}",
            Duration::from_nanos(now).as_secs_f64(),
            self.paint_node(&fw1),
            self.paint_node(&fw2),
            self.talking(traffic, now),
            self.sparkline(traffic, now),
            lag(&answers),
        ));
    }

    fn talking(&self, traffic: &Traffic, now: u64) -> String {
        let since = now.saturating_sub(nanoseconds(RECENT));
        let talking = traffic.sessions().iter().filter(|session| session.survived(since)).count();
        let all = traffic.sessions().len();
        let colour = if talking == all { Colour::Green } else { Colour::Red };
        self.paint(colour, &format!("{:>7}", format!("{talking}/{all}")))
    }

    fn sparkline(&self, traffic: &Traffic, now: u64) -> String {
        let replies = traffic.probe().histogram(now, nanoseconds(BIN), BINS);
        let colour = if replies.iter().all(|count| *count == 0) { Colour::Red } else { Colour::Green };
        self.paint(colour, &replies.into_iter().map(step).collect::<String>())
    }

    fn paint_node(&self, column: &str) -> String {
        let colour = if column.contains("MASTER") {
            Colour::Green
        } else if column.contains("backup") {
            Colour::Dim
        } else {
            Colour::Red
        };
        self.paint(colour, column)
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Green => "32",
            Colour::Red => "31;1",
            Colour::Yellow => "33;1",
            Colour::Dim => "2",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        // A reader that has gone away must not end the run before it has cleaned up.
        let _ =
            if self.to_stderr { writeln!(std::io::stderr(), "{text}") } else { writeln!(std::io::stdout(), "{text}") };
    }
}

fn node_column(node: Node, role: Option<&str>, held: [bool; 2]) -> String {
    let role = match role {
        Some("master") => "MASTER",
        Some(role) => role,
        None => "silent",
    };
    let [lan, wan] = held.map(|held| if held { '●' } else { '○' });
    format!("{} {role:<7}{lan}{wan}", node.name())
}

/// The lag of the state on its way; from the master, who sends it.
fn lag(answers: &Answers) -> String {
    let mut masters = answers.iter().flatten().filter(|status| status.role() == "master");
    masters.next().map_or_else(
        || "-".to_owned(),
        |status| if status.in_sync() { format!("{:.1} ms", status.lag_ms()) } else { "no peer".to_owned() },
    )
}

fn step(replies: u32) -> char {
    let index = (replies.min(FULL) * 8).div_ceil(FULL);
    usize::try_from(index).ok().and_then(|index| STEPS.get(index)).copied().unwrap_or('?')
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is a dot, everything a full block, one reply already visible, and more than expected still a block.
    #[test]
    fn steps_cover_the_range() {
        assert_eq!([0, 1, 5, 10, 25].map(step), ['·', '▁', '▄', '█', '█']);
    }

    /// The column tells who holds which address, also for a node that does not answer.
    #[test]
    fn a_silent_node_still_shows_its_addresses() {
        assert_eq!(node_column(Node::Fw1, None, [true, false]), "fw1 silent ●○");
    }
}
