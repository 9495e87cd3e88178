//! Events about Services, written one behind the other while addresses are given.
//!
//! An Event is a courtesy: no Service waits for one, and one that cannot be written is logged and forgotten. While
//! Services wait for addresses, statuses have the API server to themselves for [`HOLD`], and then Events go one by one.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Client, Resource,
    api::{ObjectMeta, PostParams, Request},
};
use metallb_core::{claim::ServiceFacts, report::Notice, service::ServiceKey};
use metallb_runtime::lease::Leadership;
use serde::de::IgnoredAny;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, timeout_at},
};

use super::write::COMPONENT;

/// Events that may wait; more are dropped.
const BACKLOG: usize = 100_000;
/// Events that are written at one time: one where Services have waited for addresses, and the API server's time with
/// them, for longer than [`HOLD`].
const PARALLEL: usize = 4;
/// So long an Event lets Services go first that wait for addresses.
const HOLD: Duration = Duration::from_secs(10);
/// The longest time that one may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest message of an Event, in characters, as client-go cuts it.
const MESSAGE: usize = 1024;

/// Takes Events to be written.
#[derive(Clone)]
pub(super) struct Events {
    sender: mpsc::Sender<Told>,
    /// Whether Services wait.
    behind: watch::Sender<bool>,
}

/// An Event, and what it is about.
struct Told {
    // Not the facts themselves: thousands that wait would keep as many former versions.
    key: ServiceKey,
    uid: Box<str>,
    resource_version: Box<str>,
    notice: Notice,
    at: Timestamp,
    /// It goes even if Services wait.
    due: Instant,
}

impl Events {
    /// What takes Events, and the work of writing them, which ends when the last clone of the first is gone.
    pub(super) fn new(client: Client, leadership: Leadership) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let waiting = futures::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Told>| {
            Some((receiver.recv().await?, receiver))
        });
        let (behind, is_behind) = watch::channel(false);
        let alone = Arc::new(Mutex::new(()));
        let work = waiting.for_each_concurrent(PARALLEL, move |told| {
            let (client, leadership) = (client.clone(), leadership.clone());
            let (mut is_behind, alone) = (is_behind.clone(), alone.clone());
            async move {
                // The sender goes with the program, and then there is nothing to wait for either.
                let in_time = timeout_at(told.due, is_behind.wait_for(|behind| !behind)).await.is_ok();
                let _alone = if in_time { None } else { Some(alone.lock().await) };
                told.write(client, &leadership).await;
            }
        });
        (Self { sender, behind }, work)
    }

    /// Says whether more Services wait than are written about at one time.
    pub(super) fn behind(&self, behind: bool) {
        self.behind.send_if_modified(|before| std::mem::replace(before, behind) != behind);
    }

    /// Has these written about the Service.
    pub(super) fn tell(&self, facts: &ServiceFacts, notices: &[Notice]) {
        for notice in notices {
            let told = Told {
                key: facts.key.clone(),
                uid: facts.uid.as_str().into(),
                resource_version: facts.resource_version.as_str().into(),
                notice: notice.clone(),
                at: Timestamp::now(),
                due: Instant::now() + HOLD,
            };
            if self.sender.try_send(told).is_err() {
                tracing::warn!(service = %facts.key, reason = notice.reason, "too many events wait: one dropped");
            }
        }
    }
}

impl Told {
    async fn write(self, client: Client, leadership: &Leadership) {
        let remaining = leadership.remaining().min(LIMIT);
        // A request may be sent even where no time is left for its answer.
        if remaining.is_zero() {
            tracing::warn!(service = %self.key, reason = self.notice.reason, "event not written: the Lease is lost");
            return;
        }
        let error = match tokio::time::timeout(remaining, self.post(client)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        tracing::warn!(service = %self.key, reason = self.notice.reason, error, "event not written");
    }

    /// Sends it; what the API server made of it is not even read.
    async fn post(&self, client: Client) -> anyhow::Result<IgnoredAny> {
        let events = Request::new(Event::url_path(&(), Some(self.key.namespace())));
        let request = events.create(&PostParams::default(), serde_json::to_vec(&self.event())?)?;
        Ok(client.request(request).await?)
    }

    fn event(&self) -> Event {
        let (namespace, name) = (self.key.namespace().to_owned(), self.key.name().to_owned());
        Event {
            metadata: ObjectMeta {
                // The name of a Service has at most 63 characters, so this is always a valid name.
                name: Some(format!("{name}.{:x}", self.at.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(namespace),
                name: Some(name),
                uid: Some(self.uid.to_string()),
                resource_version: Some(self.resource_version.to_string()),
                ..ObjectReference::default()
            },
            type_: Some(if self.notice.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.notice.reason.to_owned()),
            message: Some(self.notice.message.chars().take(MESSAGE).collect()),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
            reporting_component: Some(COMPONENT.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(self.at)),
            last_timestamp: Some(Time(self.at)),
            ..Event::default()
        }
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
