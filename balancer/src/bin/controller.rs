//! Entry point of the controller.

use std::process::ExitCode;

use metallb_balancer::controller::{Settings, start};

/// One thread: decisions are taken one at a time, and the rest waits for the API server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    start(Settings::from_args(std::env::args_os())).await
}
