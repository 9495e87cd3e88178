//! Attempts to connect to a router: where it is, whether another program of this node has it, and the connection.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt};
use metallb_core::config::Endpoint;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::rival::{self, Way};
use super::spec::Spec;
use super::{link, neighbor};
use crate::speaker::facts::CONFLICT;

/// Longest wait for a router to be found on an interface: less than an attempt may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long another speaker may be away before its router is taken over: one that is restarted, as by a rollout, would find
/// its session taken, and the network that depends on it its routes lost.
const REST: Duration = Duration::from_secs(20);
/// Time between looks at another speaker that was seen.
const LOOK: Duration = Duration::from_secs(5);

/// Where a router is that is known by an interface, once it is found.
type Neighbor = watch::Receiver<Option<SocketAddrV6>>;

/// Another speaker's session with a router.
#[derive(Clone, Debug)]
struct Seen {
    way: Way,
    /// Its two ends.
    session: String,
    /// When it was there last.
    at: Instant,
}

/// Connects to one router, one attempt at a time.
pub(super) struct Dialer {
    spec: Arc<Spec>,
    /// For a router that is known by an interface, where it is, and the task that looks for it.
    neighbor: Option<(Neighbor, JoinSet<()>)>,
    /// The other speaker of this node that has or had a session with the router, and the task that looks after it.
    seen: watch::Sender<Option<Seen>>,
    _looking: JoinSet<()>,
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
        let seen = watch::channel(None).0;
        let mut looking = JoinSet::new();
        looking.spawn(look_after(seen.clone()));
        Self { spec, neighbor, seen, _looking: looking, attempt: None }
    }

    /// Begins an attempt; the one that is under way ends.
    pub(super) fn start(&mut self) {
        let neighbor = self.neighbor.as_ref().map(|(router, _)| router.clone());
        self.attempt = Some(dial(Arc::clone(&self.spec), neighbor, self.seen.clone()).boxed());
    }

    /// Whether another speaker of this node has a session with the router, or had one until a moment ago.
    pub(super) fn has_rival(&self) -> bool {
        self.seen.borrow().as_ref().is_some_and(|seen| seen.at.elapsed() < REST)
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

async fn dial(
    spec: Arc<Spec>,
    mut neighbor: Option<Neighbor>,
    seen: watch::Sender<Option<Seen>>,
) -> anyhow::Result<TcpStream> {
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
    let way = Way { router, device: spec.device.clone() };
    let found = other_session(way.clone()).await.context("connections of this node cannot be read")?;
    let now = Instant::now();
    let refusal = refusal(seen.borrow().as_ref(), found.as_deref(), now);
    if let Some(session) = found {
        seen.send_replace(Some(Seen { way, session, at: now }));
    }
    if let Some(refusal) = refusal {
        anyhow::bail!(refusal);
    }
    link::dial(&spec, router).await
}

/// The session that another program of this node has with a router.
async fn other_session(way: Way) -> io::Result<Option<String>> {
    // Elsewhere than where all sessions are served: the kernel's tables are long on a busy node.
    let found = tokio::task::spawn_blocking(move || rival::session_with(&way)).await;
    found.map_err(io::Error::from).flatten()
}

/// Why this end's session has to stay closed, where another speaker has one or was seen with one.
fn refusal(seen: Option<&Seen>, found: Option<&str>, now: Instant) -> Option<String> {
    if let Some(session) = found {
        return Some(format!(
            "{CONFLICT}: another BGP speaker on this node has a session with this router ({session}); this one stays closed"
        ));
    }
    let seen = seen.filter(|seen| now.saturating_duration_since(seen.at) < REST)?;
    Some(format!(
        "{CONFLICT}: another BGP speaker on this node had a session with this router ({}) and may be restarting; this one \
         stays closed until that is {} s ago",
        seen.session,
        REST.as_secs()
    ))
}

/// Looks after another speaker that was seen, until it has been away for [`REST`].
async fn look_after(seen: watch::Sender<Option<Seen>>) {
    let mut news = seen.subscribe();
    while let Ok(known) = news.wait_for(Option::is_some).await.map(|known| known.clone()) {
        let Some(known) = known else { continue };
        tokio::time::sleep(LOOK).await;
        let now = Instant::now();
        match other_session(known.way.clone()).await {
            Ok(Some(session)) => drop(seen.send_replace(Some(Seen { session, at: now, ..known }))),
            Ok(None) if now.saturating_duration_since(known.at) < REST => {}
            Ok(None) => drop(seen.send_replace(None)),
            Err(error) => tracing::debug!(%error, "connections of this node cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speaker_that_restarts_keeps_its_router() {
        let start = Instant::now();
        let session = "192.0.2.11:4000 to 192.0.2.1:179";
        let way = Way { router: ([192, 0, 2, 1], 179).into(), device: None };
        let seen = Seen { way, session: session.to_owned(), at: start };
        for (seen, found, seconds, want) in [
            (None, None, 0, ""),
            (None, Some(session), 0, "has a session with this router"),
            (Some(&seen), Some(session), 1000, "has a session with this router"),
            (Some(&seen), None, 19, "stays closed until that is 20 s ago"),
            (Some(&seen), None, 20, ""),
        ] {
            let why = refusal(seen, found, start + Duration::from_secs(seconds)).unwrap_or_default();
            assert!(why.contains(want) && why.is_empty() == want.is_empty(), "{why:?} at {seconds}");
            assert!(want.is_empty() || (why.starts_with("Conflict: ") && why.contains(session)), "{why}");
        }
    }
}
