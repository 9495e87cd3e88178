//! Why a Service has the address that it has, and who announces it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::bail;
use k8s_openapi::api::core::v1::Service;
use metallb_core::{
    allocator::Explanation,
    announced::{Judgement, Reason, judge},
    claim::Claim,
    decision::{Concern, Decision},
    plan::{Verdict, World, plan},
    refusal::Refusal,
    routes,
    service::ServiceKey,
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Allocation, Announcing};
use crate::speaker::facts;

/// All about the address of one Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explained {
    service: ServiceKey,
    explanation: Explanation,
    /// Pools that are not served, and Services that show an address of another.
    notes: Vec<String>,
    /// Or why that could not be read.
    announced: Result<Announced, String>,
}

/// Who announces a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Announced {
    /// How it is announced, or why it is not; `None` while it has no address.
    judgement: Option<Judgement>,
    /// The node that should on layer 2, or why none.
    should: Result<String, String>,
    /// The nodes that say they do.
    layer2: BTreeSet<String>,
    /// The nodes that should by BGP, and to which peers, or why none; `None` where nothing is announced by BGP.
    bgp_should: Option<Result<BTreeMap<String, BTreeSet<String>>, String>>,
    /// The nodes that say they do by BGP, and to which peers.
    bgp: BTreeMap<String, Vec<String>>,
    /// Those of them, by node and peer, whose session does not stand.
    down: BTreeSet<(String, String)>,
}

impl Explained {
    /// Whether the Service has what it asks for, or asks for nothing here.
    pub(crate) fn is_met(&self) -> bool {
        match &self.explanation.decision {
            Decision::Leave
            | Decision::Keep { concern: None | Some(Concern::Grace | Concern::OneFamily(_)), .. }
            | Decision::Assign { .. } => true,
            Decision::Clear { refusal, .. } => refusal.is_none(),
            Decision::Keep { concern: Some(_), .. } | Decision::Refuse(_) => false,
        }
    }
}

/// Explains the Service `key`.
///
/// # Errors
/// When there is no such Service.
pub(crate) fn explain(
    key: &ServiceKey,
    allocation: &Allocation,
    announcing: anyhow::Result<Announcing>,
) -> anyhow::Result<Explained> {
    let started = allocation.started();
    let Some(facts) = started.services.iter().find(|facts| facts.key == *key) else {
        bail!("there is no Service {key}");
    };
    let problems = started.problems.iter().map(|problem| format!("not served: {problem}"));
    Ok(Explained {
        service: key.clone(),
        explanation: started.allocator.explain(facts),
        notes: started.conflicts.iter().cloned().chain(problems).collect(),
        announced: match announcing {
            Ok(announcing) => Ok(announced(key, allocation, &announcing)),
            Err(error) => Err(format!("{error:#}")),
        },
    })
}

fn announced(key: &ServiceKey, allocation: &Allocation, announcing: &Announcing) -> Announced {
    let of = |service: &&Service| facts::service(service, allocation.terms.class.as_deref()).key == *key;
    let service: Vec<Service> = allocation.services.iter().find(of).cloned().into_iter().collect();
    let world = announcing.world(&service, &allocation.terms);
    // Only the owner's speaker knows of another host, and says so in the Service's condition.
    let told = service.first().and_then(|service| facts::service(service, None).condition);
    let owners = told.filter(|told| !told.announced && Reason::is_owners(&told.reason));
    let judged = |service| match &owners {
        Some(told) => Err((Reason::Conflict, told.message.clone())),
        None => judge(&world, service, &announcing.announcers(key, service)),
    };
    let bgp = announcing.bgp_nodes(key);
    let meant = bgp.iter().flat_map(|(node, peers)| peers.iter().map(move |peer| (node, peer)));
    let down = meant.filter(|(node, peer)| !announcing.sessions.stands(node, peer));
    Announced {
        judgement: world.services.get(key).map(judged),
        should: should(&world, key),
        layer2: announcing.layer2_nodes(key),
        bgp_should: (!world.config.bgp_advertisements.is_empty()).then(|| bgp_should(&world, key)),
        down: down.map(|(node, peer)| (node.clone(), peer.clone())).collect(),
        bgp,
    }
}

/// The node that should announce a Service on layer 2, or why none.
pub(crate) fn should(world: &World, key: &ServiceKey) -> Result<String, String> {
    // Asked as a node that is none, so that every owner is another.
    match plan(world, "").services.remove(key) {
        Some(Verdict::Theirs(node)) => Ok(node),
        Some(Verdict::Nobody(reason)) => Err(reason.to_string()),
        Some(Verdict::Mine(_)) | None => Err("it has no address".to_owned()),
    }
}

/// What each node with a speaker should announce by BGP.
pub(crate) fn bgp_plans(world: &World) -> impl Iterator<Item = (&str, routes::Plan)> {
    let speaks = |node: &&String| world.speakers.as_ref().is_none_or(|all| all.contains(*node));
    world.nodes.keys().filter(speaks).map(|node| (node.as_str(), routes::plan(world, node)))
}

/// The nodes that should announce a Service by BGP, each with its peers, or why none.
fn bgp_should(world: &World, key: &ServiceKey) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let (mut nodes, mut reasons) = (BTreeMap::new(), BTreeMap::<String, Vec<&str>>::new());
    for (node, mut plan) in bgp_plans(world) {
        match plan.services.remove(key) {
            Some(Ok(told)) => drop(nodes.insert(node.to_owned(), BTreeSet::clone(&told.peers))),
            Some(Err(reason)) => reasons.entry(reason.to_string()).or_default().push(node),
            None => reasons.entry("it has no address".to_owned()).or_default().push(node),
        }
    }
    if !nodes.is_empty() {
        return Ok(nodes);
    }
    let told = |(reason, nodes): (&String, &Vec<&str>)| match reasons.len() {
        1 => reason.clone(),
        _ => format!("{}: {reason}", nodes.join(", ")),
    };
    let told: Vec<_> = reasons.iter().map(told).collect();
    Err(if told.is_empty() { "no node has a speaker".to_owned() } else { told.join("; ") })
}

/// What is to happen, in one word.
pub(crate) fn verdict(decision: &Decision) -> &'static str {
    match decision {
        Decision::Leave => "Leave",
        Decision::Keep { .. } => "Keep",
        Decision::Assign { .. } => "Assign",
        Decision::Clear { .. } => "Clear",
        Decision::Refuse(_) => "Refuse",
    }
}

/// What is not as the Service asks for.
pub(crate) fn refusal(decision: &Decision) -> Option<&Refusal> {
    match decision {
        Decision::Refuse(refusal)
        | Decision::Clear { refusal: Some(refusal), .. }
        | Decision::Keep { concern: Some(Concern::Unmet(refusal)), .. } => Some(refusal),
        Decision::Leave | Decision::Keep { .. } | Decision::Assign { .. } | Decision::Clear { .. } => None,
    }
}

/// What a Service asks for, in words.
fn wish(claim: &Claim) -> Option<String> {
    match claim {
        Claim::NotLoadBalancer | Claim::OtherClass => None,
        Claim::Wants { request: Ok(request), .. } => Some(request.to_string()),
        Claim::Wants { request: Err(refusal), .. } => Some(refusal.to_string()),
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Service      {}", self.service)?;
        writeln!(f, "{}", self.explanation)?;
        for note in &self.notes {
            writeln!(f, "note         {note}")?;
        }
        let announced = match &self.announced {
            Ok(announced) => announced,
            Err(error) => return write!(f, "announced    cannot be told: {error}"),
        };
        match &announced.judgement {
            None => writeln!(f, "announced    no: it has no address")?,
            Some(Ok(how)) => writeln!(f, "announced    yes: {how}")?,
            Some(Err((reason, message))) => {
                writeln!(f, "announced    no: {}: {message}", reason.as_str())?;
            }
        }
        match &announced.should {
            Ok(node) => writeln!(f, "layer 2      should be announced by {node}")?,
            Err(reason) => writeln!(f, "layer 2      by nobody: {reason}")?,
        }
        let nodes: Vec<&str> = announced.layer2.iter().map(String::as_str).collect();
        write!(
            f,
            "             says so: {}",
            if nodes.is_empty() { "nobody".into() } else { nodes.join(", ") }
        )?;
        match &announced.bgp_should {
            Some(Ok(nodes)) => {
                let told = |(node, peers): (&String, &BTreeSet<String>)| {
                    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
                    format!("{node} to {}", peers.join(", "))
                };
                let nodes: Vec<_> = nodes.iter().map(told).collect();
                write!(f, "\nBGP          should be announced by {}", nodes.join("; "))?;
            }
            Some(Err(reason)) => write!(f, "\nBGP          by nobody: {reason}")?,
            None => {}
        }
        for (node, peers) in &announced.bgp {
            let told = |peer: &String| match announced.down.contains(&(node.clone(), peer.clone())) {
                true => format!("{peer} (session down)"),
                false => peer.clone(),
            };
            let peers: Vec<_> = peers.iter().map(told).collect();
            write!(f, "\n             says so: {node} to {}", peers.join(", "))?;
        }
        Ok(())
    }
}

impl Serialize for Explained {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Explanation { claim, shown, held, pools, decision } = &self.explanation;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("service", &self.service.to_string())?;
        map.serialize_entry("asksFor", &wish(claim))?;
        map.serialize_entry("shown", shown)?;
        map.serialize_entry("held", held)?;
        let pools: Vec<_> = pools
            .iter()
            .map(|considered| {
                let (offer, why) = match &considered.offer {
                    Ok(addresses) => (addresses.as_slice(), None),
                    Err(none) => (&[][..], Some(none.to_string())),
                };
                serde_json::json!({ "name": considered.pool, "offer": offer, "why": why })
            })
            .collect();
        map.serialize_entry("pools", &pools)?;
        map.serialize_entry("verdict", verdict(decision))?;
        map.serialize_entry("reason", &refusal(decision).map(Refusal::reason))?;
        map.serialize_entry("outcome", &decision.to_string())?;
        map.serialize_entry("notes", &self.notes)?;
        if let Ok(announced) = &self.announced {
            let judgement = announced.judgement.as_ref();
            let why_not = judgement.and_then(|judgement| judgement.as_ref().err());
            let why_not = why_not.map(|(reason, message)| format!("{}: {message}", reason.as_str()));
            map.serialize_entry("announced", &judgement.is_some_and(Result::is_ok))?;
            map.serialize_entry("whyNotAnnounced", &why_not)?;
            let (node, why) = (announced.should.as_ref().ok(), announced.should.as_ref().err());
            let layer2 = serde_json::json!({ "should": node, "why": why, "says": announced.layer2 });
            map.serialize_entry("layer2", &layer2)?;
            let bgp_should = announced.bgp_should.as_ref();
            map.serialize_entry("bgpShould", &bgp_should.and_then(|should| should.as_ref().ok()))?;
            map.serialize_entry("bgpWhyNot", &bgp_should.and_then(|should| should.as_ref().err()))?;
            map.serialize_entry("bgp", &announced.bgp)?;
            map.serialize_entry("sessionsDown", &announced.down)?;
        }
        map.end()
    }
}
