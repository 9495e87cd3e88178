//! Programs that watch what speakers watch, and count what that costs them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use tokio::task::JoinSet;

/// What a speaker watches that an allocation may change.
const PATHS: [&str; 2] = [
    "/api/v1/services?watch=true&resourceVersion=0&fieldSelector=spec.type%3DLoadBalancer",
    "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools?watch=true&resourceVersion=0",
];
/// Watches that are opened at one time.
const PARALLEL: usize = 16;

/// Watchers that run until this is dropped.
pub struct Watchers {
    count: usize,
    bytes: Arc<AtomicU64>,
    running: JoinSet<()>,
}

impl Watchers {
    /// Starts `count` of them; returns when all watch.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn start(client: Client, count: usize) -> Result<Self> {
        let bytes = Arc::new(AtomicU64::new(0));
        let paths = (0..count).flat_map(|_| PATHS);
        let bodies: Vec<_> = stream::iter(paths)
            .map(|path| {
                let client = client.clone();
                async move {
                    let request = axum::http::Request::get(path).body(kube::client::Body::empty())?;
                    let answer = client.send(request).await?;
                    anyhow::ensure!(answer.status().is_success(), "{path}: {}", answer.status());
                    Ok(axum::body::Body::new(answer.into_body()).into_data_stream())
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
            .context("watchers")?;
        let mut running = JoinSet::new();
        for mut body in bodies {
            let bytes = bytes.clone();
            running.spawn(async move {
                while let Some(Ok(part)) = body.next().await {
                    bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
                }
            });
        }
        Ok(Self { count, bytes, running })
    }

    /// Bytes that each of them has read so far, on average.
    #[must_use]
    pub fn bytes_each(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64 / self.count.max(1) as f64
    }

    /// How many still watch.
    #[must_use]
    pub fn open(&mut self) -> usize {
        while self.running.try_join_next().is_some() {}
        self.running.len() / PATHS.len()
    }
}
