//! Entry point of the kubectl plugin.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    metallb_balancer::plugin::main(std::env::args_os()).await
}
