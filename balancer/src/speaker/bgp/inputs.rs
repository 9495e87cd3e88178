//! What the observer watches for BGP, and what it makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher;
use kube::{Api, Client};
use metallb_api::{BFDProfile, BGPAdvertisement, BGPPeer, Community};
use metallb_core::config::{LONGEST_PASSWORD, Objects};
use metallb_core::plan::World;
use metallb_core::routes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::spec::{Found, Key, Node, Wanted};
use crate::speaker::observer::{named, stripped, take};
use crate::watch::{Change, changes, watch_anew, watch_selected};

/// Type of the Secrets that hold a password, and its key in them.
const SECRET_TYPE: &str = "kubernetes.io/basic-auth";
const SECRET_KEY: &str = "password";

/// A change of what BGP depends on.
pub(crate) enum Input {
    Peers(Change<BGPPeer>),
    Advertisements(Change<BGPAdvertisement>),
    Profiles(Change<BFDProfile>),
    Communities(Change<Community>),
    /// What the Secret of this name holds.
    Secret(String, Found),
}

/// All that is known of what BGP depends on.
pub(crate) struct Inputs {
    node: Node,
    peers: Option<BTreeMap<String, BGPPeer>>,
    advertisements: Option<BTreeMap<String, BGPAdvertisement>>,
    profiles: Option<BTreeMap<String, BFDProfile>>,
    communities: Option<BTreeMap<String, Community>>,
    secrets: Secrets,
}

impl Inputs {
    /// Nothing is known. The stream is of the Secrets that turn out to be named, and ends with this value.
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        node: Node,
    ) -> (Self, impl Stream<Item = Input> + Send + Unpin + use<>) {
        let (secrets, read) = Secrets::new(client, namespace);
        let inputs =
            Self { node, peers: None, advertisements: None, profiles: None, communities: None, secrets };
        let found = futures::stream::unfold(read, |mut read| async move { Some((read.recv().await?, read)) });
        (inputs, found.boxed())
    }

    /// Watches the Secrets anew: what is known of them counts until then.
    pub(crate) fn look_again(&mut self) {
        let names = std::mem::take(&mut self.secrets.watches).into_keys().collect();
        self.secrets.follow(&names);
    }

    /// Takes a change in.
    pub(crate) fn take(&mut self, input: Input) {
        match input {
            Input::Peers(change) => {
                let peers = self.peers.get_or_insert_default();
                take(peers, change, named);
                let named =
                    peers.values().filter_map(|peer| peer.spec.password_secret.as_ref()?.name.clone());
                self.secrets.follow(&named.filter(|name| !name.is_empty()).collect());
            }
            Input::Advertisements(change) => take(self.advertisements.get_or_insert_default(), change, named),
            Input::Profiles(change) => take(self.profiles.get_or_insert_default(), change, named),
            Input::Communities(change) => take(self.communities.get_or_insert_default(), change, named),
            Input::Secret(name, found) => self.secrets.learn(name, found),
        }
    }

    /// Adds what is known to the objects of the configuration, once that is everything: what is not known yet would be
    /// taken for missing.
    pub(crate) fn objects<'a>(&'a self, objects: Objects<'a>) -> Objects<'a> {
        if !self.is_complete() {
            return objects;
        }
        Objects {
            bgp_peers: self.peers.iter().flat_map(BTreeMap::values).collect(),
            bgp_advertisements: self.advertisements.iter().flat_map(BTreeMap::values).collect(),
            bfd_profiles: self.profiles.iter().flat_map(BTreeMap::values).collect(),
            communities: self.communities.iter().flat_map(BTreeMap::values).collect(),
            ..objects
        }
    }

    fn is_complete(&self) -> bool {
        let Self { peers, advertisements, profiles, communities, .. } = self;
        peers.is_some() && advertisements.is_some() && profiles.is_some() && communities.is_some()
    }

    /// Plans the routes and publishes what is wanted, once everything is known: routes from half of it would be
    /// withdrawn from routers that hold them rightly.
    pub(crate) fn publish(&self, world: &World, me: &str, wanted: &watch::Sender<Option<Arc<Wanted>>>) {
        if !self.is_complete() {
            return;
        }
        let plan = routes::plan(world, me);
        let now = Wanted::of(&world.config, plan, self.node, &self.secrets.found);
        wanted.send_if_modified(|former| {
            let changed = former.as_deref() != Some(&now);
            if changed {
                let known = former.as_ref().map(|former| former.problems.as_slice()).unwrap_or_default();
                for problem in now.problems.iter().filter(|problem| !known.contains(problem)) {
                    tracing::error!(event = "configInvalid", error = %problem, "part of the configuration is not served");
                }
                *former = Some(Arc::new(now));
            }
            changed
        });
    }
}

/// Watches what BGP depends on, but for Secrets.
pub(crate) fn watched(client: &Client, namespace: &str) -> Vec<BoxStream<'static, Input>> {
    vec![
        objects("BGPPeer", client, namespace).map(Input::Peers).boxed(),
        objects("BGPAdvertisement", client, namespace).map(Input::Advertisements).boxed(),
        objects("BFDProfile", client, namespace).map(Input::Profiles).boxed(),
        objects("Community", client, namespace).map(Input::Communities).boxed(),
    ]
}

fn objects<K>(
    kind: &'static str,
    client: &Client,
    namespace: &str,
) -> impl Stream<Item = Change<K>> + Send + use<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    changes(kind, watch_anew(api), stripped)
}

/// The Secrets that peers name, each watched by itself: no other is ever asked for.
struct Secrets {
    api: Api<Secret>,
    send: mpsc::UnboundedSender<Input>,
    watches: BTreeMap<String, JoinSet<()>>,
    found: BTreeMap<String, Found>,
}

impl Secrets {
    fn new(client: &Client, namespace: &str) -> (Self, mpsc::UnboundedReceiver<Input>) {
        let (send, read) = mpsc::unbounded_channel();
        let api = Api::namespaced(client.clone(), namespace);
        (Self { api, send, watches: BTreeMap::new(), found: BTreeMap::new() }, read)
    }

    fn follow(&mut self, names: &BTreeSet<String>) {
        self.watches.retain(|name, _| names.contains(name));
        self.found.retain(|name, _| names.contains(name));
        for name in names {
            if self.watches.contains_key(name) {
                continue;
            }
            // A set of one task, which ends with it.
            let mut task = JoinSet::new();
            task.spawn(watch_secret(self.api.clone(), name.clone(), self.send.clone()));
            self.watches.insert(name.clone(), task);
        }
    }

    fn learn(&mut self, name: String, found: Found) {
        // What was underway when the watch ended is no longer asked for.
        if self.watches.contains_key(&name) {
            self.found.insert(name, found);
        }
    }
}

async fn watch_secret(api: Api<Secret>, name: String, send: mpsc::UnboundedSender<Input>) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes =
        std::pin::pin!(changes("Secret", watch_selected(api, only), |secret| password(&secret)));
    while let Some(change) = changes.next().await {
        let found = match change {
            Change::All(all) => all.into_iter().next().unwrap_or(Found::Missing),
            Change::Set(found) => found,
            Change::Gone(_) => Found::Missing,
        };
        if send.send(Input::Secret(name.clone(), found)).is_err() {
            return;
        }
    }
}

fn password(secret: &Secret) -> Found {
    match secret.type_.as_deref() {
        Some(SECRET_TYPE) => {}
        other => {
            let other = other.unwrap_or("Opaque");
            return Found::Unusable(format!("has the type {other}: use {SECRET_TYPE}"));
        }
    }
    let value =
        secret.data.as_ref().and_then(|data| data.get(SECRET_KEY)).filter(|value| !value.0.is_empty());
    match value {
        Some(value) if value.0.len() > LONGEST_PASSWORD => {
            let length = value.0.len();
            let limit = LONGEST_PASSWORD;
            Found::Unusable(format!("has a password of {length} octets: TCP MD5 takes at most {limit}"))
        }
        Some(value) => Found::Password(Key::new(&value.0)),
        None => Found::Unusable(format!("has no key {SECRET_KEY:?}")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_password_is_read_from_a_secret_of_its_type_only() {
        let secret = |kind: Option<&str>, key: &str, value: &str| Secret {
            type_: kind.map(str::to_owned),
            data: Some([(key.to_owned(), ByteString(value.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        let unusable = |why: &str| Found::Unusable(why.to_owned());
        let basic = Some("kubernetes.io/basic-auth");
        for (secret, want) in [
            (secret(basic, "password", "x"), Found::Password(Key::new(b"x"))),
            (secret(basic, "password", &"x".repeat(80)), Found::Password(Key::new(&[b'x'; 80]))),
            (
                secret(basic, "password", &"x".repeat(81)),
                unusable("has a password of 81 octets: TCP MD5 takes at most 80"),
            ),
            (secret(basic, "password", ""), unusable("has no key \"password\"")),
            (secret(basic, "secret", "x"), unusable("has no key \"password\"")),
            (secret(None, "password", "x"), unusable("has the type Opaque: use kubernetes.io/basic-auth")),
            (
                secret(Some("kubernetes.io/tls"), "password", "x"),
                unusable("has the type kubernetes.io/tls: use kubernetes.io/basic-auth"),
            ),
        ] {
            assert_eq!(password(&secret), want);
        }
    }
}
