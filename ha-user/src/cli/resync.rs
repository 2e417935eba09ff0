//! `twinwall resync`.

use super::{SocketArguments, fail_asking, print};
use crate::ipc::Request;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall resync && twinwall status

Exit codes: 0 begun, 1 refused, 3 not running.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
}

pub fn main(arguments: Arguments) -> ExitCode {
    match arguments.socket.ask(&Request::Resync) {
        Ok(_) => print("resync begun; `twinwall status` shows its progress\n"),
        Err(error) => fail_asking(&error),
    }
}
