//! The binary `twinwall`: the daemon and its command line.

fn main() -> std::process::ExitCode {
    ha_user::cli::main()
}
