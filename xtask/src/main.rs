//! The project's own commands: `cargo xtask VERB`. Every verb is a file.

mod audit;
mod bench;
mod build;
mod faults;
mod fuzz;
mod kernel;
mod lab;
mod run;
mod setup;
mod shell;
mod sim;
mod spec;
mod test;
mod tidy;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows and tests twinwall")]
enum Verb {
    /// Name what is missing on this machine and install it
    Setup(setup::Args),
    /// Build the daemon with its XDP programs (release)
    Build(build::Args),
    Run(run::RunArgs),
    Lab(lab::LabArgs),
    Test(test::TestArgs),
    Fuzz(fuzz::FuzzArgs),
    Audit(audit::AuditArgs),
    Faults(faults::FaultsArgs),
    Spec(spec::SpecArgs),
    Sim(sim::SimArgs),
    /// Measure: `bench failover` what a client sees, `bench sync` what state costs, `bench limits` what the kernel can do, `bench xdp` the XDP program's cost per packet, `bench sync-rx` what is behind it
    Bench(bench::Args),
    /// Check formatting, imports, purity of the core, unsafe code and file lengths
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    // Not anyhow's own way out: an error of a command is a sentence for its user, without a backtrace.
    obey(Verb::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn obey(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Build(args) => build::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Run(args) => run::run(&args),
        Verb::Lab(args) => lab::lab(&args).map(|()| ExitCode::SUCCESS),
        Verb::Test(args) => test::test(&args),
        Verb::Fuzz(args) => fuzz::fuzz(&args),
        Verb::Audit(args) => audit::audit(&args),
        Verb::Faults(args) => faults::faults(&args).map(|()| ExitCode::SUCCESS),
        Verb::Sim(args) => sim::run(&args),
        Verb::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Spec(args) => spec::spec(&args).map(|()| ExitCode::SUCCESS),
        Verb::Tidy(args) => tidy::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
