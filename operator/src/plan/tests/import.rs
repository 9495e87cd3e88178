//! The configuration of an older MetalLB.

use super::*;

fn legacy_config(text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config", "namespace": NAMESPACE},
           "data": {"config": text}})
}

const LEGACY: &str = "
peers: [{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1}]
address-pools:
- {name: Old Pool, protocol: layer2, addresses: [198.51.100.0/28]}
- {name: rendered, protocol: layer2, addresses: [203.0.113.0/28]}
";

fn legacy(bench: &Bench) -> (String, String, String) {
    bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "LegacyConfigImported")
}

#[test]
fn a_configuration_of_an_older_metallb_is_told_and_imported_when_asked_for() {
    let mut bench = Bench::installed();
    bench.put(Kind::AddressPool, address_pool("rendered", "{protocol: layer2, addresses: [203.0.113.0/28]}"));
    bench.settle();
    bench.put(Kind::ConfigMap, legacy_config(LEGACY));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    let plan = bench.plan();
    assert_eq!(plan.reports[0].events.len(), 1);
    assert_eq!(plan.reports[0].events[0].reason, "LegacyConfigFound");
    bench.settle();
    let (status, _, message) = legacy(&bench);
    assert_eq!(
        (status.as_str(), message.as_str()),
        (
            "False",
            "ConfigMap config of an older MetalLB has no effect: set annotation metallb.io/import: \"true\" on this \
             resource to have IPAddressPool old-pool, L2Advertisement old-pool, BGPPeer peer-192-0-2-1 made of it; \
             skipped: pool rendered, whose addresses IPAddressPool rendered has, or delete it"
        )
    );
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/import": "true"});
    });
    assert_eq!(
        bench.changes(),
        [[
            "create IPAddressPool old-pool",
            "create L2Advertisement old-pool",
            "create BGPPeer peer-192-0-2-1"
        ]]
    );
    bench.settle();
    let pool = bench.live(Kind::IpAddressPool, "old-pool");
    assert_eq!(pool["spec"]["addresses"], json!(["198.51.100.0/28"]));
    assert_eq!(pool["metadata"]["ownerReferences"], Value::Null, "it is the user's");
    let (status, reason, message) = legacy(&bench);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "LegacyConfigImported"));
    assert_eq!(
        message,
        "imported: IPAddressPool old-pool, L2Advertisement old-pool, BGPPeer peer-192-0-2-1; skipped: pool rendered, \
         whose addresses IPAddressPool rendered has"
    );
    bench.delete(&key(Kind::IpAddressPool, "old-pool"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "what the user deletes does not come back");
    bench.delete(&key(Kind::ConfigMap, "config"));
    bench.settle();
    let conditions = &bench.live(Kind::MetalLb, "metallb")["status"]["conditions"];
    assert!(
        conditions.as_array().unwrap().iter().all(|condition| condition["type"] != "LegacyConfigImported")
    );
}

#[test]
fn nothing_is_imported_while_one_entry_has_a_problem() {
    for (text, part) in [
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.0/28]}, {name: b, protocol: ospf}]",
            "ospf",
        ),
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.0/28]}, {name: b, protocol: layer2, \
             addresses: [192.0.2.99]}]",
            "IPAddressPool \"b\": spec.addresses[0]: 192.0.2.99 is a single address: write 192.0.2.99/32",
        ),
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [198.51.100.0/24]}]",
            "198.51.100.0/28 overlaps 198.51.100.0/24 of IPAddressPool \"a\"",
        ),
        (
            "peers: [{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1, hold-time: never}]",
            "spec.holdTime",
        ),
    ] {
        let mut bench = Bench::installed();
        bench
            .put(Kind::AddressPool, address_pool("mine", "{protocol: layer2, addresses: [198.51.100.0/28]}"));
        bench.settle();
        bench.put(Kind::ConfigMap, legacy_config(text));
        bench.edit(Kind::MetalLb, "metallb", |object| {
            object["metadata"]["annotations"] = json!({"metallb.io/import": "true"});
        });
        assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "{text}");
        bench.settle();
        let (status, reason, message) = legacy(&bench);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "LegacyConfigInvalid"), "{message}");
        assert!(message.contains(part), "{message}");
    }
}
