//! Attempts to connect to a router: where it is, whether another program of this node has it, and the connection.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt};
use metallb_core::config::Endpoint;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::spec::Spec;
use super::{link, neighbor, rival};
use crate::speaker::facts::CONFLICT;

/// Longest wait for a router to be found on an interface: less than an attempt may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Where a router is that is known by an interface, once it is found.
type Neighbor = watch::Receiver<Option<SocketAddrV6>>;

/// Connects to one router, one attempt at a time.
pub(super) struct Dialer {
    spec: Arc<Spec>,
    /// For a router that is known by an interface, where it is, and the task that looks for it.
    neighbor: Option<(Neighbor, JoinSet<()>)>,
    attempt: Option<BoxFuture<'static, anyhow::Result<TcpStream>>>,
}

impl Dialer {
    pub(super) fn new(spec: Arc<Spec>) -> Self {
        let neighbor = match &spec.endpoint {
            Endpoint::Address(_) => None,
            Endpoint::Interface(interface) => {
                let (found, router) = watch::channel(None);
                let mut task = JoinSet::new();
                task.spawn(neighbor::follow(interface.clone(), found));
                Some((router, task))
            }
        };
        Self { spec, neighbor, attempt: None }
    }

    /// Begins an attempt; the one that is under way ends.
    pub(super) fn start(&mut self) {
        let neighbor = self.neighbor.as_ref().map(|(router, _)| router.clone());
        self.attempt = Some(dial(Arc::clone(&self.spec), neighbor).boxed());
    }

    /// Gives up the attempt that is under way.
    pub(super) fn stop(&mut self) {
        self.attempt = None;
    }

    /// Waits for the end of an attempt. Nothing is lost when this is given up.
    pub(super) async fn done(&mut self) -> anyhow::Result<TcpStream> {
        let Some(attempt) = &mut self.attempt else { return std::future::pending().await };
        let result = attempt.await;
        self.attempt = None;
        result
    }
}

async fn dial(spec: Arc<Spec>, mut neighbor: Option<Neighbor>) -> anyhow::Result<TcpStream> {
    let router = match (&spec.endpoint, &mut neighbor) {
        (Endpoint::Address(address), _) => SocketAddr::new(*address, spec.port),
        (Endpoint::Interface(interface), Some(neighbor)) => {
            let found = tokio::time::timeout(PATIENCE, neighbor.wait_for(Option::is_some)).await;
            let found = found.ok().and_then(Result::ok).and_then(|found| *found);
            let mut found =
                found.with_context(|| format!("no router advertises itself on interface {interface:?}"))?;
            found.set_port(spec.port);
            found.into()
        }
        (Endpoint::Interface(interface), None) => {
            anyhow::bail!("nobody looks for the router on {interface:?}")
        }
    };
    // Elsewhere than where all sessions are served: the kernel's tables are long on a busy node.
    let found = tokio::task::spawn_blocking(move || rival::session_with(router)).await;
    if let Some(other) =
        found.map_err(std::io::Error::from).flatten().context("connections of this node cannot be read")?
    {
        anyhow::bail!(
            "{CONFLICT}: another BGP speaker on this node has a session with this router ({other}); this one stays closed"
        );
    }
    link::dial(&spec, router).await
}
