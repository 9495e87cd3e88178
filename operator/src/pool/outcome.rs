//! What is told on an AddressPool: conditions, and how many of its addresses are used.

use ipnet::IpNet;
use metallb_api::{
    IPAddressPool,
    conditions::{CONFLICT, IN_NODE_SUBNET, READY, Report},
};
use metallb_core::range::AddressRange;
use serde_json::{Map, Value, json};

use crate::{
    install::Problem,
    status::{Reason, report},
};

/// What became of an AddressPool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is served by these objects.
    Served(Vec<String>),
    /// It is about to be.
    Pending,
    /// What the API server refused.
    Failed(Vec<String>),
    /// It is not valid.
    Invalid(Vec<Problem>),
    /// These objects exist and belong to somebody else.
    Conflict(Vec<String>),
    /// These objects belong to the user now.
    Converted(Vec<String>),
}

/// Conditions of an AddressPool. `outside` are its blocks that lie in none of the nodes' `subnets`; empty for a pool
/// that is not announced by layer 2.
#[must_use]
pub fn conditions(outcome: &Outcome, outside: &[AddressRange], subnets: &[IpNet]) -> Vec<Report> {
    let ready = match outcome {
        Outcome::Served(objects) => {
            report(READY, true, Reason::Ready, format!("served as {}", objects.join(", ")))
        }
        Outcome::Pending => report(READY, false, Reason::Applying, "its objects are being applied"),
        Outcome::Failed(failures) => report(READY, false, Reason::ApplyFailed, failures.join("; ")),
        Outcome::Invalid(problems) => {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            report(READY, false, Reason::Invalid, problems.join("; "))
        }
        Outcome::Conflict(objects) => report(
            READY,
            false,
            Reason::Conflict,
            format!("not served: {} exists and belongs to somebody else", objects.join(", ")),
        ),
        Outcome::Converted(objects) => {
            let objects = if objects.is_empty() { "what it became".to_owned() } else { objects.join(", ") };
            report(
                READY,
                true,
                Reason::Converted,
                format!("{objects} is yours: this AddressPool has no effect any more and may be deleted"),
            )
        }
    };
    let conflict = match outcome {
        Outcome::Conflict(objects) => report(
            CONFLICT,
            true,
            Reason::Conflict,
            format!(
                "{} exists and does not belong to this pool, so it is not overwritten: delete it, or give this pool \
                 another name",
                objects.join(", ")
            ),
        ),
        _ => report(CONFLICT, false, Reason::NoConflict, ""),
    };
    let in_subnet = match outcome {
        Outcome::Served(_) if subnets.is_empty() => None,
        Outcome::Served(_) if outside.is_empty() => {
            Some(report(IN_NODE_SUBNET, true, Reason::InNodeSubnet, ""))
        }
        Outcome::Served(_) => Some(report(
            IN_NODE_SUBNET,
            false,
            Reason::OutsideNodeSubnets,
            format!(
                "{} is in no subnet of a node ({}): only what has a route to it through one of the nodes reaches it",
                listed(outside),
                listed(subnets)
            ),
        )),
        _ => None,
    };
    [ready, conflict].into_iter().chain(in_subnet).collect()
}

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How many addresses are used, as status fields, by what the controller wrote about the pool; null where it has not.
#[must_use]
pub fn usage(pool: Option<&IPAddressPool>) -> Map<String, Value> {
    let status = pool.and_then(|pool| pool.status.as_ref());
    let fields = [
        ("assigned", status.map(|status| json!(status.assigned_ipv4.saturating_add(status.assigned_ipv6)))),
        ("assignedIPv4", status.map(|status| json!(status.assigned_ipv4))),
        ("assignedIPv6", status.map(|status| json!(status.assigned_ipv6))),
        ("services", status.and_then(|status| status.services).map(Value::from)),
        ("capacity", status.and_then(|status| status.capacity.as_ref()).map(|capacity| json!(capacity))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_outside_every_subnet_are_told_with_the_subnets_that_there_are() {
        let served = Outcome::Served(vec!["IPAddressPool p".to_owned()]);
        let (outside, subnets) = (["198.51.100.0/28".parse().unwrap()], ["192.0.2.0/24".parse().unwrap()]);
        let told = conditions(&served, &outside, &subnets);
        assert_eq!(
            told[2],
            report(
                IN_NODE_SUBNET,
                false,
                Reason::OutsideNodeSubnets,
                "198.51.100.0/28 is in no subnet of a node (192.0.2.0/24): only what has a route to it through one of \
                 the nodes reaches it"
            )
        );
        assert!(conditions(&served, &[], &subnets)[2].status);
        assert_eq!(conditions(&served, &[], &[]).len(), 2, "nothing is known of subnets");
        assert_eq!(conditions(&Outcome::Pending, &outside, &subnets).len(), 2);
    }

    #[test]
    fn usage_is_that_of_the_pool_it_became() {
        let pool: IPAddressPool = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "spec": {"addresses": []},
            "status": {"assignedIPv4": 3, "assignedIPv6": 1, "availableIPv4": 13, "availableIPv6": 0, "services": 3,
                       "capacity": {"ipv4": "16", "ipv6": "1"}},
        }))
        .unwrap();
        assert_eq!(
            Value::Object(usage(Some(&pool))),
            json!({"assigned": 4, "assignedIPv4": 3, "assignedIPv6": 1, "services": 3,
                   "capacity": {"ipv4": "16", "ipv6": "1"}})
        );
        assert!(usage(None).values().all(Value::is_null));
    }
}
