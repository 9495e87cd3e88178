use super::*;

const THREE: &[&str] = &["node1", "node2", "node3"];

fn ip(last: usize) -> IpAddr {
    IpAddr::from([172, 22, 0, u8::try_from(last).unwrap()])
}

/// Shares of the addresses from .1 on, with these holders.
fn shares<'a>(nodes: &[&'a str], holders: &[Option<&'a str>]) -> Vec<Share<'a>> {
    holders
        .iter()
        .enumerate()
        .map(|(index, holder)| Share {
            address: ip(index + 1),
            nodes: nodes.iter().copied().collect(),
            holder: *holder,
            pinned: false,
        })
        .collect()
}

fn loads(owners: &[Option<&str>], nodes: &[&str]) -> Vec<usize> {
    nodes.iter().map(|node| owners.iter().filter(|owner| **owner == Some(node)).count()).collect()
}

fn moved(before: &[Option<&str>], after: &[Option<&str>]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

#[test]
fn free_addresses_are_spread_evenly() {
    let owners = spread(&shares(THREE, &[None; 10]), MOST);
    let mut loads = loads(&owners, THREE);
    loads.sort_unstable();
    assert_eq!(loads, [3, 3, 4]);
}

#[test]
fn a_lost_node_moves_its_own_addresses_and_a_new_one_gets_its_share_and_no_more() {
    let before = spread(&shares(THREE, &[None; 90]), MOST);
    assert_eq!(loads(&before, THREE), [30, 30, 30]);
    let two = ["node1", "node3"];
    let without: Vec<_> = before.iter().map(|owner| owner.filter(|owner| *owner != "node2")).collect();
    let after = spread(&shares(&two, &without), MOST);
    assert_eq!((loads(&after, &two), moved(&before, &after)), (vec![45, 45], 30));

    let back = spread(&shares(THREE, &after), MOST);
    assert_eq!((loads(&back, THREE), moved(&after, &back)), (vec![30, 30, 30], 30));
    let four = ["node1", "node2", "node3", "node4"];
    let grown = spread(&shares(&four, &back), MOST);
    assert_eq!(moved(&back, &grown), 22);
    assert!(loads(&grown, &four).iter().all(|load| (22..=23).contains(load)));
}

#[test]
fn nothing_moves_for_a_difference_of_one() {
    let holders = [Some("node1"), Some("node1"), Some("node2"), Some("node3")];
    assert_eq!(spread(&shares(THREE, &holders), MOST), holders);
}

#[test]
fn what_is_pinned_or_has_nowhere_to_go_stays() {
    let mut all = shares(THREE, &[Some("node1"); 4]);
    for share in &mut all[..3] {
        share.nodes = ["node1"].into();
    }
    assert_eq!(spread(&all, MOST), [Some("node1"), Some("node1"), Some("node1"), Some("node2")]);
    all[3].pinned = true;
    assert_eq!(spread(&all, MOST), [Some("node1"); 4]);
    all[3].nodes.clear();
    assert_eq!(spread(&all, MOST)[3], None);
}

#[test]
fn a_share_leaves_a_holder_that_may_not_have_it() {
    let mut all = shares(THREE, &[Some("node1"), Some("node2"), Some("gone")]);
    all[0].nodes = ["node2", "node3"].into();
    let owners = spread(&all, MOST);
    assert_eq!(loads(&owners, THREE), [1, 1, 1]);
    assert_ne!(owners[0], Some("node1"));
}

#[test]
fn any_spread_ends_balanced_where_every_node_may_have_everything() {
    let nodes = ["a", "b", "c", "d", "e"];
    for seed in 0..200_usize {
        let holders: Vec<_> =
            (0..40).map(|index| nodes.get((index * seed + seed / 3) % 9).copied()).collect();
        let owners = spread(&shares(&nodes, &holders), MOST);
        assert_eq!(loads(&owners, &nodes), [8; 5], "seed {seed}");
    }
}

/// Who says what, and who holds by that.
type Case<'a> = (&'a [(&'a str, Claim)], Option<&'a str>);

#[test]
fn the_latest_epoch_holds_and_a_release_frees_only_its_own_claim() {
    let claim = |epoch, held| Claim { epoch, held };
    // By hash, the owners of this address are node2, node1, node3 in this order.
    let address = "172.22.0.100".parse().unwrap();
    let cases: [Case<'_>; 5] = [
        (&[], None),
        (&[("node1", claim(1, true)), ("node3", claim(2, true))], Some("node3")),
        (&[("node1", claim(2, true)), ("node2", claim(2, true))], Some("node2")),
        (&[("node1", claim(2, true)), ("node2", claim(2, false))], Some("node1")),
        (&[("node1", claim(3, false)), ("node2", claim(2, false))], None),
    ];
    for (claims, want) in cases {
        assert_eq!(holder(address, claims.iter().copied()), want, "{claims:?}");
    }
}

#[test]
fn a_node_gets_no_more_than_it_can_tell_the_others_of() {
    let owners = spread(&shares(THREE, &[None; 8]), 2);
    assert_eq!(loads(&owners, THREE), [2, 2, 2]);
    assert_eq!(owners.iter().filter(|owner| owner.is_none()).count(), 2);
    // What it has already it keeps.
    let owners = spread(&shares(&["node1"], &[Some("node1"), Some("node1"), Some("node1"), None]), 2);
    assert_eq!(owners, [Some("node1"), Some("node1"), Some("node1"), None]);
}
