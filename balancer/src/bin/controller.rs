//! Entry point of the controller.

use metallb_balancer::controller::{Settings, run};

/// One thread: decisions are taken one at a time, and the rest waits for the API server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    run(Settings::from_args(std::env::args_os())).await
}
