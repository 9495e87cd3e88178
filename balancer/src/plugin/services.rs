//! What the Services have, who announces them, and why some wait.

use std::{collections::BTreeSet, net::IpAddr};

use metallb_core::{
    claim::ServiceFacts,
    decision::{Concern, Decision},
    plan::World,
    refusal::Refusal,
};
use serde::Serialize;

use super::output::{Style, Table, Tone, judged, list, plain};
use crate::inspect::{Allocation, Announcing, refusal, should};

/// All Services of the load balancer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Services(Vec<Line>);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    namespace: String,
    name: String,
    addresses: Vec<IpAddr>,
    pool: Option<String>,
    state: State,
    /// What is not as it asks for, in one word and in a sentence.
    reason: Option<&'static str>,
    message: Option<String>,
    /// The node that should announce it on layer 2.
    layer2_should: Option<String>,
    /// Why none should.
    layer2_why: Option<String>,
    /// The nodes that say they do.
    layer2: BTreeSet<String>,
    /// The nodes that say they announce it by BGP.
    bgp: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum State {
    /// It has what it asks for.
    Served,
    /// It keeps what it had, for want of what it asks for now, or though no pool holds it any more.
    Kept,
    /// What it asks for is there, and not given yet.
    Pending,
    /// There is nothing for it.
    Waiting,
}

impl Services {
    /// Those of `namespace`, or of all.
    pub(super) fn of(allocation: &Allocation, announcing: &Announcing, namespace: Option<&str>) -> Self {
        let started = allocation.started();
        let world = announcing.world(&allocation.services, &allocation.terms);
        let chosen = |facts: &&ServiceFacts| namespace.is_none_or(|wanted| facts.key.namespace() == wanted);
        let line = |facts: &ServiceFacts| line(facts, &started.allocator.decide(facts), &world, announcing);
        let mut lines: Vec<_> = started.services.iter().filter(chosen).filter_map(line).collect();
        lines.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self(lines)
    }

    /// Whether each has what it asks for.
    pub(super) fn is_good(&self) -> bool {
        self.0.iter().all(|line| line.state == State::Served)
    }

    /// For people.
    pub(super) fn text(&self, style: Style) -> String {
        let mut table = Table::new(&["NAMESPACE", "SERVICE", "ADDRESSES", "POOL", "STATE", "LAYER 2", "BGP"]);
        for line in &self.0 {
            let addresses: Vec<_> = line.addresses.iter().map(ToString::to_string).collect();
            table.row([
                plain(&line.namespace),
                plain(&line.name),
                plain(addresses.join(", ")),
                plain(line.pool.clone().unwrap_or_default()),
                judged(format!("{:?}", line.state), line.state == State::Served),
                layer2(line),
                plain(joined(&line.bgp)),
            ]);
        }
        let mut text = table.text(style);
        let told =
            |line: &Line| Some(format!("{}/{}: {}", line.namespace, line.name, line.message.as_ref()?));
        let messages: Vec<String> = self.0.iter().filter_map(told).collect();
        list(&mut text, "Not as asked for", &messages, Tone::Bad, style);
        text
    }
}

fn joined(nodes: &BTreeSet<String>) -> String {
    nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Who announces on layer 2, and what of it is not as it should be.
fn layer2(line: &Line) -> (String, Tone) {
    let says = joined(&line.layer2);
    match (&line.layer2_should, &line.layer2_why) {
        (Some(node), _) if line.layer2.len() == 1 && line.layer2.contains(node) => (says, Tone::Good),
        (Some(node), _) if says.is_empty() => (format!("nobody; should be {node}"), Tone::Bad),
        (Some(node), _) => (format!("{says}; should be {node}"), Tone::Bad),
        // What is announced by BGP alone has no advertisement on layer 2.
        (None, Some(_)) if !line.bgp.is_empty() || line.addresses.is_empty() => plain(says),
        (None, Some(why)) if says.is_empty() => (format!("nobody: {why}"), Tone::Bad),
        (None, _) => plain(says),
    }
}

/// `None` for what is not this load balancer's.
fn line(facts: &ServiceFacts, decision: &Decision, world: &World, announcing: &Announcing) -> Option<Line> {
    let state = match decision {
        Decision::Leave | Decision::Clear { refusal: None, .. } => return None,
        Decision::Keep { concern: None | Some(Concern::Grace | Concern::OneFamily(_)), .. } => State::Served,
        Decision::Keep { .. } => State::Kept,
        Decision::Assign { .. } => State::Pending,
        Decision::Clear { .. } | Decision::Refuse(_) => State::Waiting,
    };
    let (reason, message) = match decision {
        Decision::Keep { concern: Some(Concern::PoolMissing(_)), .. } => {
            (Some(metallb_core::report::POOL_MISSING), Some(decision.to_string()))
        }
        _ => (refusal(decision).map(Refusal::reason), refusal(decision).map(ToString::to_string)),
    };
    let should = should(world, &facts.key);
    Some(Line {
        namespace: facts.key.namespace().to_owned(),
        name: facts.key.name().to_owned(),
        addresses: facts.shown(),
        pool: facts.mark.clone().filter(|pool| !pool.is_empty()),
        state,
        reason,
        message,
        layer2_should: should.as_ref().ok().cloned(),
        layer2_why: should.err(),
        layer2: announcing.layer2_nodes(&facts.key),
        bgp: announcing.bgp_nodes(&facts.key).into_keys().collect(),
    })
}
