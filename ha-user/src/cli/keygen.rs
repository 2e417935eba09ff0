//! `twinwall keygen`.

use super::{exit, fail, print};
use crate::config::secret;
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const DEFAULT_OUTPUT: &str = "/etc/twinwall/secret";

#[derive(Args)]
#[command(after_help = "Example:
  twinwall keygen --output /etc/twinwall/secret
  scp -p /etc/twinwall/secret root@fw2:/etc/twinwall/secret")]
pub struct Arguments {
    /// The file to make, mode 0600
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_OUTPUT)]
    output: PathBuf,
    /// Replace the secret that is there (its epoch is raised by one)
    #[arg(long)]
    force: bool,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let path = &arguments.output;
    // The first command on a fresh machine must not fail for a missing directory; any other path is the user's.
    if path == Path::new(DEFAULT_OUTPUT)
        && let Some(directory) = path.parent()
        && let Err(error) = std::fs::create_dir_all(directory)
    {
        return fail(format_args!("cannot make {}: {error} (run as root)", directory.display()), exit::FAILED);
    }
    match secret::generate(path, arguments.force) {
        Ok(secret) => print(&format!(
            "wrote {path} (32 random bytes, epoch {epoch})\n\
             Every node needs the same file. Copy it to each other node, for instance:\n  \
             scp -p {path} root@PEER:{path}\n",
            path = path.display(),
            epoch = secret.epoch,
        )),
        Err(error) => fail(error, exit::FAILED),
    }
}
