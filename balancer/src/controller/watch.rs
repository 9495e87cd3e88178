//! The watches, each turned into a stream of [`Change`]s that holds only what is needed of an object.

use futures::Stream;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::{Api, core::PartialObjectMeta};
use metallb_api::IPAddressPool;
use metallb_core::{claim::ServiceFacts, selector::Labels};

use crate::watch::{Change, Unreadable, changes, news, watch_anew};

/// Services, reduced to what allocation needs.
pub(super) fn services(api: Api<Service>, class: Option<String>) -> impl Stream<Item = Change<ServiceFacts>> {
    changes("Service", watch_anew(api), move |service| ServiceFacts::of(&service, class.as_deref()))
}

/// IPAddressPools without the record of who wrote which field; and when it cannot be told which there are.
pub(super) fn pools(
    api: Api<IPAddressPool>,
) -> impl Stream<Item = Result<Change<IPAddressPool>, Unreadable>> {
    news("IPAddressPool", watch_anew(api), |mut pool: IPAddressPool| {
        pool.metadata.managed_fields = None;
        pool
    })
}

/// Names and labels of namespaces; nothing else of them is asked for.
pub(super) fn namespaces(
    api: Api<PartialObjectMeta<Namespace>>,
) -> impl Stream<Item = Change<(String, Labels)>> {
    changes("Namespace", watch_anew(api), |namespace: PartialObjectMeta<Namespace>| {
        (namespace.metadata.name.unwrap_or_default(), namespace.metadata.labels.unwrap_or_default())
    })
}
