use std::collections::BTreeSet;

use metallb_core::{allocator::PoolSpec, service::Tenant};
use serde_json::json;

use super::*;

fn object(status: &serde_json::Value) -> IPAddressPool {
    serde_json::from_value(json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": "main" },
        "spec": { "addresses": ["192.0.2.0/24"], "cooldown": "1h" }, "status": status,
    }))
    .expect("a pool")
}

fn pools(object: IPAddressPool) -> Pools {
    let mut pools = Pools::new(Metrics::new());
    pools.take(Change::All(vec![object]));
    pools.serve();
    pools
}

#[test]
fn a_status_names_so_many_resting_addresses_and_no_more() {
    let mut pools = self::pools(object(&json!(null)));
    let mut ledger = Ledger::default();
    let spec = PoolSpec {
        ranges: vec!["192.0.2.0/24".parse().expect("a range")],
        avoid_buggy_ips: false,
        cooldown: Duration::from_secs(3600),
    };
    ledger.set_pools([("main".to_owned(), spec)].into());
    let now = Duration::from_secs(1_000_000);
    let released: Vec<IpAddr> = (0..200).map(|host| IpAddr::from([192, 0, 2, host])).collect();
    for (number, address) in released.iter().enumerate() {
        let service = ServiceKey::new("ns", &format!("s{number}"));
        ledger.hold(&service, &[*address], &Tenant::default()).expect("a free address");
        ledger.release(&service, now);
    }
    let changed = pools.changed(&ledger, now);
    let status = &changed["main"];
    assert_eq!(status.resting.len(), NAMED_RESTING);
    assert_eq!((status.assigned_ipv4, status.available_ipv4), (0, 56), "all of them rest");

    // Who reads it has just those that it names.
    let read = self::pools(object(&json!(status))).resting();
    let named: BTreeSet<IpAddr> = read.iter().map(|(address, _)| *address).collect();
    assert!(named.len() == NAMED_RESTING && named.iter().all(|address| released.contains(address)));
    let hour_later = Duration::from_secs(1_003_600);
    assert!(read.iter().all(|(_, rest)| rest.until == hour_later), "{read:?}");
}

#[test]
fn notes_that_make_no_sense_are_left_out() {
    let note = |address: &str, service: &str, until: &str| json!({ "address": address, "service": service, "until": until });
    let pools = self::pools(object(&json!({
        "assignedIPv4": 0, "assignedIPv6": 0, "availableIPv4": 0, "availableIPv6": 0,
        "resting": [
            note("192.0.2.1", "ns/web", "2026-01-01T00:00:00Z"),
            note("nonsense", "ns/web", "2026-01-01T00:00:00Z"),
            note("192.0.2.2", "no namespace", "2026-01-01T00:00:00Z"),
            note("192.0.2.3", "ns/web", "1901-01-01T00:00:00Z"),
        ],
    })));
    let rest = Rest { service: ServiceKey::new("ns", "web"), until: Duration::from_secs(1_767_225_600) };
    assert_eq!(pools.resting(), [(IpAddr::from([192, 0, 2, 1]), rest)]);
}
