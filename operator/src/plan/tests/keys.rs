//! Keys of the speakers' gossip.

use super::*;

#[test]
fn a_resource_that_is_made_again_before_the_old_one_is_cleared_away_has_the_key() {
    let mut bench = Bench::installed();
    bench.edit(Kind::MetalLb, "metallb", |metallb| metallb["metadata"]["uid"] = json!("uid-next"));
    assert_eq!(bench.changes()[0][0], "take fields of Secret metallb-memberlist");
    bench.settle();
    let secret = bench.live(Kind::Secret, "metallb-memberlist");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "uid-next");
    assert_eq!(secret["data"]["secretkey"], "cmVtZW1iZXJlZA==");
}

#[test]
fn the_key_of_the_gossip_is_never_overwritten() {
    let mut bench = Bench::installed();
    assert_eq!(bench.live(Kind::Secret, "metallb-memberlist")["data"]["secretkey"], "cmVtZW1iZXJlZA==");
    bench.edit(Kind::Secret, "metallb-memberlist", |secret| secret["data"]["secretkey"] = json!("bWluZQ=="));
    bench.settle();
    assert_eq!(bench.live(Kind::Secret, "metallb-memberlist")["data"]["secretkey"], "bWluZQ==");

    let mut bench = Bench::new();
    let theirs = json!({"apiVersion": "v1", "kind": "Secret", "data": {"secretkey": "b2xk"},
                        "metadata": {"name": "metallb-memberlist", "namespace": NAMESPACE}});
    bench.put(Kind::Secret, theirs);
    bench.put(Kind::MetalLb, metallb("{}"));
    let plan = bench.plan();
    let Change::Apply(_, secret, _) = &plan.stages[0][0] else { panic!("{plan:?}") };
    assert_eq!(secret["data"], json!({"secretkey": "b2xk", "secretkey-previous": "b2xk"}));
    assert_eq!(secret["metadata"]["resourceVersion"], "101", "only if it is still what was seen");
}

#[test]
fn a_new_key_is_written_once_and_a_replaced_one_is_kept_beside_it() {
    let mut bench = Bench::new();
    bench.put(Kind::MetalLb, metallb("{}"));
    let plan = bench.plan();
    let Change::Create(key, secret) = &plan.stages[0][0] else { panic!("{plan:?}") };
    bench.put(key.kind, stored(secret, "Update", bench.now));
    assert!(
        !bench.changes().concat().iter().any(|change| change.contains("Secret")),
        "{:?}",
        bench.changes()
    );
    let at_rest = Some("remembered".to_owned());
    assert!(!bench.gossip.see("remembered".to_owned(), at_rest.clone()));
    bench.settle();

    bench.edit(Kind::Secret, "metallb-memberlist", |secret| secret["data"]["secretkey"] = json!("bmV3"));
    assert!(bench.gossip.see("new".to_owned(), at_rest));
    bench.settle();
    let mixed = json!({"secretkey": "bmV3", "secretkey-previous": "cmVtZW1iZXJlZA=="});
    assert_eq!(bench.live(Kind::Secret, "metallb-memberlist")["data"], mixed);

    // Once every speaker has read the new one, the old one opens nothing any more.
    bench.gossip.is_settled = true;
    bench.settle();
    let at_rest = json!({"secretkey": "bmV3", "secretkey-previous": "bmV3"});
    assert_eq!(bench.live(Kind::Secret, "metallb-memberlist")["data"], at_rest);
    assert!(bench.gossip.see("new".to_owned(), Some("new".to_owned())));
    assert_eq!((&bench.gossip.previous, bench.gossip.is_settled), (&None, false));
    bench.assert_idle();
}

#[test]
fn a_key_that_is_replaced_while_no_operator_runs_leaves_the_one_before_it_beside_it() {
    let mut bench = Bench::installed();
    let data = |bench: &Bench| bench.live(Kind::Secret, "metallb-memberlist")["data"].clone();
    let at_rest = json!({"secretkey": "cmVtZW1iZXJlZA==", "secretkey-previous": "cmVtZW1iZXJlZA=="});
    assert_eq!(data(&bench), at_rest);
    bench.edit(Kind::Secret, "metallb-memberlist", |secret| secret["data"]["secretkey"] = json!("bmV3"));
    // The next operator knows no more than what it sees.
    bench.gossip = Gossip::new("random".to_owned());
    assert!(bench.gossip.see("new".to_owned(), Some("remembered".to_owned())));
    bench.settle();
    let mixed = json!({"secretkey": "bmV3", "secretkey-previous": "cmVtZW1iZXJlZA=="});
    assert_eq!(data(&bench), mixed);

    // Replaced once more: whoever has read the second is still understood.
    bench.edit(Kind::Secret, "metallb-memberlist", |secret| secret["data"]["secretkey"] = json!("dGhpcmQ="));
    assert!(bench.gossip.see("third".to_owned(), Some("remembered".to_owned())));
    bench.settle();
    assert_eq!(data(&bench), json!({"secretkey": "dGhpcmQ=", "secretkey-previous": "bmV3"}));
    bench.gossip.is_settled = true;
    bench.settle();
    assert_eq!(data(&bench), json!({"secretkey": "dGhpcmQ=", "secretkey-previous": "dGhpcmQ="}));
}
