//! Entry point of the speaker.

use metallb_balancer::speaker::{Settings, run};

/// One thread for the API server; what answers the network has its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    run(Settings::from_args(std::env::args_os())).await
}
