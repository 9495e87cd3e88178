//! A proxy between a program and the API server that does what networks and API servers do on a bad day.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// What goes wrong. The Lease is spared but for the delay: who may write is not what is tried here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Each request waits so long first.
    pub delay: Duration,
    /// Every so many writes one is refused by a conflict, unwritten.
    pub conflict_every: Option<usize>,
    /// Every so many writes one is written, but its answer is lost.
    pub lose_answer_every: Option<usize>,
    /// Lists break off after their first page.
    pub no_further_page: bool,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    road: Arc<Road>,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Road {
    client: Client,
    faults: watch::Sender<Faults>,
    writes: AtomicUsize,
    /// Turns when all watches are to end.
    cut: watch::Sender<u64>,
    /// Paths that are watched.
    watched: Mutex<BTreeSet<String>>,
    /// Paths whose next watch is told that it asks for too old a version.
    expired: Mutex<BTreeSet<String>>,
}

impl Proxy {
    /// Forwards what it is asked as `client` would ask it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(client: Client) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let road = Arc::new(Road {
            client,
            faults: watch::Sender::default(),
            writes: AtomicUsize::new(0),
            cut: watch::Sender::new(0),
            watched: Mutex::default(),
            expired: Mutex::default(),
        });
        let routes = Router::new().fallback(forward).with_state(road.clone());
        let serving = tokio::spawn(async move {
            // Ends only with the program.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { address, road, serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this goes wrong.
    pub fn break_with(&self, faults: Faults) {
        self.road.faults.send_replace(faults);
    }

    /// Ends every watch, and tells its next attempt that the version it asks for is too old.
    pub fn expire_watches(&self) {
        let watched = std::mem::take(&mut *lock(&self.road.watched));
        lock(&self.road.expired).extend(watched);
        self.road.cut.send_modify(|turns| *turns += 1);
    }

    /// The paths that are still to be told that their version is too old.
    #[must_use]
    pub fn unexpired(&self) -> BTreeSet<String> {
        lock(&self.road.expired).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn forward(State(road): State<Arc<Road>>, request: Request) -> Response {
    let faults = *road.faults.borrow();
    tokio::time::sleep(faults.delay).await;
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let watching = query.contains("watch=true");
    if faults.no_further_page && query.contains("continue=") {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    let writing = request.method() != Method::GET && !path.contains("/leases");
    let number = if writing { road.writes.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
    let due = |every: Option<usize>| writing && every.is_some_and(|every| number.is_multiple_of(every));
    if due(faults.conflict_every) {
        return refuse(StatusCode::CONFLICT, "Conflict");
    }
    if watching && lock(&road.expired).remove(&path) {
        return refuse(StatusCode::GONE, "Expired");
    }
    let mut cut = road.cut.subscribe();
    if watching {
        lock(&road.watched).insert(path);
    }
    let answer = match road.pass(request).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    if due(faults.lose_answer_every) {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    if !watching {
        return answer;
    }
    let (head, body) = answer.into_parts();
    let end = async move { cut.changed().await };
    Response::from_parts(head, Body::from_stream(body.into_data_stream().take_until(Box::pin(end))))
}

impl Road {
    async fn pass(&self, request: Request) -> Result<Response> {
        let (mut head, body) = request.into_parts();
        // The client speaks for itself.
        for name in [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH] {
            head.headers.remove(name);
        }
        let body = to_bytes(body, usize::MAX).await?.to_vec();
        let answer = self.client.send(axum::http::Request::from_parts(head, body.into())).await?;
        Ok(answer.map(Body::new))
    }
}

/// What the API server says when it refuses.
fn refuse(code: StatusCode, reason: &str) -> Response {
    let status: Value = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": format!("{reason}, by the proxy"),
    });
    (code, axum::Json(status)).into_response()
}
