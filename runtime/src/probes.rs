//! `/healthz` and `/readyz` over plain HTTP, for the kubelet.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    routing::get,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{listen, page::Page};

/// The content type of a [`Page`].
pub(crate) const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

/// Whether the program is ready to do its work. Clones share the same state; it starts as not ready.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<bool>);

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether the program is ready from now on.
    pub fn set(&self, ready: bool) {
        self.0.send_replace(ready);
    }

    /// What was said last.
    #[must_use]
    pub fn get(&self) -> bool {
        *self.0.borrow()
    }
}

/// Serves the probes until `cancel`, without further pages: see [`serve_with`].
///
/// # Errors
/// As [`serve_with`].
pub async fn serve(addr: SocketAddr, readiness: Readiness, cancel: CancellationToken) -> anyhow::Result<()> {
    serve_with(addr, readiness, None, cancel).await
}

/// Serves the probes and `page` until `cancel`: `/healthz` is 200 as long as the program answers, `/readyz` is 200 when it
/// is ready and 503 otherwise.
///
/// # Errors
/// When `addr` cannot be bound, naming it.
pub async fn serve_with(
    addr: SocketAddr,
    readiness: Readiness,
    page: Option<Page>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen::bind(addr)
        .and_then(tokio::net::TcpListener::from_std)
        .with_context(|| format!("health probes: cannot bind {addr}"))?;
    let mut routes = Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(ready));
    if let Some(page) = page {
        let path = page.path;
        routes = routes.route(path, get(async move || ([JSON], page.text().await)));
    }
    let routes = routes.with_state(readiness);
    axum::serve(listener, routes).with_graceful_shutdown(cancel.cancelled_owned()).await?;
    Ok(())
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.get() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn status_line(addr: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn readyz_follows_readiness_and_a_taken_port_is_named() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = free.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let taken = serve(addr, Readiness::new(), cancel.clone()).await.unwrap_err().to_string();
        assert_eq!(taken, format!("health probes: cannot bind {addr}"));
        drop(free);

        let readiness = Readiness::new();
        let page = Page::new("/facts", || async { "{}".to_owned() });
        let server = tokio::spawn(serve_with(addr, readiness.clone(), Some(page), cancel.clone()));
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(status_line(addr, "/healthz").await, "HTTP/1.1 200 OK");
        assert_eq!(status_line(addr, "/readyz").await, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(status_line(addr, "/facts").await, "HTTP/1.1 200 OK");
        readiness.set(true);
        assert_eq!(status_line(addr, "/readyz").await, "HTTP/1.1 200 OK");
        cancel.cancel();
        server.await.unwrap().unwrap();
    }
}
