//! Takes what comes from the cluster: nodes, speakers, endpoints, sessions, and who says that it announces.

use std::collections::BTreeSet;

use ipnet::IpNet;
use metallb_core::announced::Sessions;

use super::Announcing;
use crate::{
    controller::news::{News, NodeFacts, Protocol, Said, Session, Subnets},
    speaker::facts::SliceFacts,
    watch::{Change, Unreadable},
};

impl Announcing {
    /// Takes a change of what announcing depends on; tells whether every Service is to be judged anew.
    pub(in crate::controller) fn take(&mut self, news: News) -> bool {
        match news {
            News::Nodes(change) => {
                self.list("Node", &change);
                self.take_nodes(change)
            }
            News::Slices(change) => {
                self.list("EndpointSlice", &change);
                self.take_slices(change);
                false
            }
            News::Speakers(change) => {
                self.list("Pod", &change);
                match change {
                    Change::All(all) => self.speakers = all.into_iter().collect(),
                    Change::Set((pod, seed)) => {
                        self.speakers.insert(pod, seed);
                    }
                    Change::Gone((pod, _)) => {
                        self.speakers.remove(&pod);
                    }
                }
                let ready = self.speakers.values().flatten().filter(|seed| seed.ready);
                let ready = Some(ready.map(|seed| seed.node.clone()).collect());
                let changed = self.world.speakers != ready;
                self.world.speakers = ready;
                changed
            }
            News::Said(protocol, change) => {
                let layer2 = protocol == Protocol::Layer2;
                self.list(if layer2 { "ServiceL2Status" } else { "ServiceBGPStatus" }, &change);
                self.take_said(protocol, change);
                false
            }
            News::Sessions(news) => self.take_sessions(news),
            News::Subnets(change) => {
                match change {
                    Change::All(all) => {
                        let told = all.into_iter().filter_map(|state| Some((state.object, state.told?)));
                        self.told_subnets = told.collect();
                    }
                    Change::Set(Subnets { object, told: Some(told) }) => {
                        self.told_subnets.insert(object, told);
                    }
                    Change::Set(Subnets { object, told: None }) | Change::Gone(Subnets { object, .. }) => {
                        self.told_subnets.remove(&object);
                    }
                }
                self.join_subnets()
            }
        }
    }

    fn list<T>(&mut self, kind: &'static str, change: &Change<T>) {
        if matches!(change, Change::All(_)) {
            self.listed.insert(kind);
        }
    }

    fn take_nodes(&mut self, change: Change<NodeFacts>) -> bool {
        let changed = match change {
            Change::All(all) => {
                let before = (std::mem::take(&mut self.world.nodes), std::mem::take(&mut self.networks));
                for node in all {
                    self.put_node(node);
                }
                before.0 != self.world.nodes || before.1 != self.networks
            }
            Change::Set(node) => self.put_node(node),
            Change::Gone(NodeFacts { name, .. }) => {
                self.networks.remove(&name);
                self.world.nodes.remove(&name).is_some()
            }
        };
        if changed {
            self.join_subnets();
        }
        changed
    }

    /// Gathers the subnets of the nodes that there are. Whether they are others than before.
    fn join_subnets(&mut self) -> bool {
        let told = self.told_subnets.values().filter(|(node, _)| self.networks.contains_key(node));
        let annotated = self.networks.values().flat_map(|network| &network.subnets);
        let all: BTreeSet<IpNet> = told.flat_map(|(_, subnets)| subnets).chain(annotated).copied().collect();
        let all: Vec<IpNet> = all.into_iter().collect();
        let changed = self.subnets != all;
        self.subnets = all;
        changed
    }

    fn put_node(&mut self, NodeFacts { name, facts, network }: NodeFacts) -> bool {
        let same = self.world.nodes.get(&name) == Some(&facts) && self.networks.get(&name) == Some(&network);
        self.world.nodes.insert(name.clone(), facts);
        self.networks.insert(name, network);
        !same
    }

    fn take_sessions(&mut self, news: Result<Change<Session>, Unreadable>) -> bool {
        self.listed.insert("BGPSessionState");
        let sessions = match news {
            Err(Unreadable) => Sessions(None),
            Ok(change) => {
                match change {
                    Change::All(all) => {
                        let named = all.into_iter().map(|session| (session.object, session.standing));
                        self.standing = named.collect();
                    }
                    Change::Set(session) => {
                        self.standing.insert(session.object, session.standing);
                    }
                    Change::Gone(session) => {
                        self.standing.remove(&session.object);
                    }
                }
                Sessions(Some(self.standing.values().flatten().cloned().collect()))
            }
        };
        let changed = self.sessions != sessions;
        self.sessions = sessions;
        changed
    }

    fn take_slices(&mut self, change: Change<SliceFacts>) {
        match change {
            Change::All(all) => {
                self.dirty.extend(std::mem::take(&mut self.endpoints).into_keys());
                all.into_iter().for_each(|slice| self.take_slices(Change::Set(slice)));
            }
            Change::Set(slice) => {
                let slices = self.endpoints.entry(slice.service.clone()).or_default();
                if slices.insert(slice.key, slice.endpoints.clone()) != Some(slice.endpoints) {
                    self.dirty.insert(slice.service);
                }
            }
            Change::Gone(slice) => {
                if let Some(slices) = self.endpoints.get_mut(&slice.service) {
                    slices.remove(&slice.key);
                    if slices.is_empty() {
                        self.endpoints.remove(&slice.service);
                    }
                    self.dirty.insert(slice.service);
                }
            }
        }
    }

    fn take_said(&mut self, protocol: Protocol, change: Change<Said>) {
        match change {
            Change::All(all) => {
                self.dirty.extend(self.said.keys().cloned());
                for objects in self.said.values_mut() {
                    objects.retain(|(other, _), _| *other != protocol);
                }
                all.into_iter().for_each(|said| self.take_said(protocol, Change::Set(said)));
            }
            Change::Set(said) => {
                let objects = self.said.entry(said.service.clone()).or_default();
                objects.insert((protocol, said.object), said.word);
                self.dirty.insert(said.service);
            }
            Change::Gone(said) => {
                if let Some(objects) = self.said.get_mut(&said.service) {
                    objects.remove(&(protocol, said.object));
                    if objects.is_empty() {
                        self.said.remove(&said.service);
                    }
                }
                self.dirty.insert(said.service);
            }
        }
    }
}
