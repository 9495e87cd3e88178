//! What plans show to be wrong with the configuration.

use metallb_core::plan::Plan;
use metallb_core::spread::MOST;
use metallb_proto::membership::Facts;

/// What the plan, and what is told of this node, show to be wrong with the configuration.
pub(super) fn problems(plan: &Plan, own: Option<&Facts>) -> Vec<String> {
    let mixed = plan.mixed.iter().map(|(names, address)| {
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        format!(
            "L2Advertisements {}: spec.electionPolicy: they differ for {address}, whose owner is chosen by Hash",
            names.join(", ")
        )
    });
    let crowded = plan.crowded.iter().map(|(name, groups)| {
        format!(
            "L2Advertisement {name:?}: spec.electionPolicy: {groups} addresses have no owner, since each node that may \
             announce them has {MOST} by Even, which is all that a speaker can tell the others of"
        )
    });
    let untold = own.map(Facts::untold).filter(|untold| *untold > 0).map(|untold| {
        format!(
            "{untold} of the addresses that this node claims by electionPolicy Even, or keeps by failback, are more than \
             it can tell the other speakers of: they may move"
        )
    });
    mixed.chain(crowded).chain(untold).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn what_a_plan_cannot_do_as_it_is_asked_to_is_told() {
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        assert_eq!(problems(&Plan::default(), None), Vec::<String>::new());
        let names = ["even", "hash"].map(str::to_owned).into();
        let plan = Plan {
            mixed: [(names, ip(1))].into(),
            crowded: [("even".to_owned(), 3)].into(),
            ..Plan::default()
        };
        let own = Facts { kept: (0..13_001).map(ip).collect(), ..Facts::default() };
        let want = [
            "L2Advertisements \"even\", \"hash\": spec.electionPolicy: they differ for 10.0.0.1, whose owner is chosen by \
             Hash",
            "L2Advertisement \"even\": spec.electionPolicy: 3 addresses have no owner, since each node that may announce \
             them has 2600 by Even, which is all that a speaker can tell the others of",
            "1 of the addresses that this node claims by electionPolicy Even, or keeps by failback, are more than it can \
             tell the other speakers of: they may move",
        ];
        assert_eq!(problems(&plan, Some(&own)), want);
    }

    #[test]
    fn what_even_gives_a_node_can_be_told() {
        let ip = |number: u128| IpAddr::from(std::net::Ipv6Addr::from(number));
        let claims = (0..MOST).map(|number| (ip(number.try_into().unwrap()), (u32::MAX, true))).collect();
        assert_eq!(Facts { claims, ..Facts::default() }.untold(), 0);
    }
}
