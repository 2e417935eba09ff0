//! `twinwall check`.

use super::{ConfigArguments, exit, fail, print, print_json};
use crate::config::{self, Choice, ConfigError, Report, Resolved};
use crate::maintenance::{MaintenanceError, MaintenanceFile};
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall check --config ./twinwall.toml --node fw1

Exit codes: 0 usable (warnings may be printed), 1 the file has errors (with --strict: or warnings),
2 the file cannot be read.")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
}

/// `check --json`.
#[derive(serde::Serialize)]
struct Outcome<'a> {
    usable: bool,
    node: Option<&'a str>,
    /// Absent where it cannot be told.
    maintenance: Option<bool>,
    #[serde(flatten)]
    report: &'a Report,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let choice = Choice { file: arguments.config.config, node: arguments.config.node, socket: None };
    let (resolved, report) = match config::check(&choice) {
        Ok((resolved, report)) => (Some(resolved), report),
        Err(ConfigError::Invalid(report)) => (None, report),
        Err(error @ (ConfigError::Unreadable { .. } | ConfigError::TooLarge { .. } | ConfigError::NotText { .. })) => {
            return fail(error, exit::MISUSED);
        }
    };
    let usable = resolved.is_some() && !(arguments.strict && report.warnings() > 0);
    let printed = if arguments.json {
        let node = resolved.as_ref().map(Resolved::own_name);
        let maintenance = resolved.as_ref().and_then(|resolved| maintenance(resolved).ok());
        print_json(&Outcome { usable, node, maintenance, report: &report })
    } else {
        print(&describe(&report, resolved.as_ref()))
    };
    if usable { printed } else { ExitCode::from(exit::FAILED) }
}

/// What is remembered on this machine for the node.
fn maintenance(resolved: &Resolved) -> Result<bool, MaintenanceError> {
    MaintenanceFile::new(&resolved.state_directory, resolved.own_name()).is_on()
}

fn describe(report: &Report, resolved: Option<&Resolved>) -> String {
    let mut text = String::new();
    if !report.problems.is_empty() {
        text += &format!("{report}\n\n");
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let counts = format!("{}, {}", count(report.errors(), "error"), count(report.warnings(), "warning"));
    text += &format!("{}: {counts}", report.file.display());
    if let Some(resolved) = resolved {
        let addresses: usize = resolved.vips.iter().map(|vip| vip.addresses.len()).sum();
        text += &format!(
            "\ncluster {}, {}, {} with {} on {}; as {}",
            resolved.cluster,
            count(resolved.nodes.len(), "node"),
            count(resolved.vips.len(), "vip"),
            if addresses == 1 { "1 address".to_owned() } else { format!("{addresses} addresses") },
            resolved.interfaces.join(", "),
            resolved.own_name(),
        );
        match maintenance(resolved) {
            Ok(false) => {}
            Ok(true) => text += "\nmaintenance is on: the node takes nothing (end it with `twinwall maintenance off`)",
            Err(error) => text += &format!("\nmaintenance: {error}"),
        }
    }
    text + "\n"
}
