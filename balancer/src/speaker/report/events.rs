//! Events of a Service.

use anyhow::Context;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use metallb_core::service::ServiceKey;

use super::{COMPONENT, in_time, unless_gone};

/// Type of an Event that needs no attention.
pub(super) const NORMAL: &str = "Normal";
/// Type of an Event that does.
pub(super) const WARNING: &str = "Warning";

/// What is told of a Service.
pub(super) struct Notice<'a> {
    pub(super) key: &'a ServiceKey,
    pub(super) uid: &'a str,
    pub(super) kind: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Tells it; a Service that was deleted meanwhile has nothing to be told.
pub(super) async fn tell(client: &Client, notice: Notice<'_>) -> anyhow::Result<()> {
    let reason = notice.reason;
    let api: Api<Event> = Api::namespaced(client.clone(), notice.key.namespace());
    let event = event(notice, Timestamp::now());
    let told = in_time(api.create(&PostParams::default(), &event)).await;
    unless_gone(told).with_context(|| format!("Event {reason}"))
}

fn event(notice: Notice<'_>, now: Timestamp) -> Event {
    let Notice { key, uid, kind, reason, message } = notice;
    Event {
        metadata: ObjectMeta {
            // The name of a Service has at most 63 characters, so this is always a valid name.
            name: Some(format!("{}.{:x}", key.name(), now.as_nanosecond())),
            namespace: Some(key.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace().to_owned()),
            name: Some(key.name().to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}
