//! `twinwall keygen`.

use super::{exit, fail, print};
use crate::config::secret::{self, SecretError};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const DEFAULT_OUTPUT: &str = "/etc/twinwall/secret";

#[derive(Args)]
#[command(after_help = "Example:
  twinwall keygen --output /etc/twinwall/secret
  scp -p /etc/twinwall/secret root@fw2:/etc/twinwall/secret

To change the secret of a running pair without interruption:
  twinwall keygen --rotate    adds a new one; copy the file, then `twinwall reload` on both nodes, in either order
  twinwall status             shows on both nodes that the new epoch is in use
  twinwall keygen --retire    takes the old one away; copy the file, then `twinwall reload` on both nodes")]
pub struct Arguments {
    /// The file to make, mode 0600
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_OUTPUT)]
    output: PathBuf,
    /// Replace what is there (the epoch is raised by one): for nodes that are stopped
    #[arg(long, group = "change")]
    force: bool,
    /// Put a new secret beside the one that is there; it is used as soon as both nodes have it
    #[arg(long, group = "change")]
    rotate: bool,
    /// Take the older of two secrets away
    #[arg(long, group = "change")]
    retire: bool,
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
    match change(&arguments) {
        Ok(said) => print(&said),
        Err(error) => fail(error, exit::FAILED),
    }
}

/// Does it, and says what is to be done next.
fn change(arguments: &Arguments) -> Result<String, SecretError> {
    let path = arguments.output.display();
    let copy = format!("scp -p {path} root@PEER:{path}");
    if arguments.rotate {
        let [older, newer] = secret::rotate(&arguments.output)?;
        return Ok(format!(
            "added a secret of epoch {newer} to {path}, beside that of epoch {older}\n\
             Copy the file to each other node, and reload on each, in any order:\n  {copy}\n  twinwall reload\n\
             When `twinwall status` shows epoch {newer} in use on every node: twinwall keygen --retire\n"
        ));
    }
    if arguments.retire {
        let [older, newer] = secret::retire(&arguments.output)?;
        return Ok(format!(
            "took the secret of epoch {older} out of {path}; that of epoch {newer} stays\n\
             Copy the file to each other node, and reload on each, in any order:\n  {copy}\n  twinwall reload\n"
        ));
    }
    let epoch = secret::generate(&arguments.output, arguments.force)?;
    Ok(format!(
        "wrote {path} (32 random bytes, epoch {epoch})\n\
         Every node needs the same file. Copy it to each other node, for instance:\n  {copy}\n"
    ))
}
