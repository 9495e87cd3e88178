//! The largest, strangest and outermost that a user may write.

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::fixture::{LIMIT, World, names, surprises};

async fn create(world: &World, name: &str, annotations: &Value, families: &Value) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ipFamilies": families,
            "ports": [{ "port": 80 }],
        },
    }))?;
    world.services().create(&PostParams::default(), &service).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_of_any_size_and_script_are_answered() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    let (four, long) = (json!(["IPv4"]), "ü".repeat(130_000));
    for (name, key, value, reason) in [
        ("long-pool", "metallb.io/address-pool", long.as_str(), "UnknownPool"),
        ("long-address", "metallb.io/loadBalancerIPs", long.as_str(), "InvalidRequest"),
        ("long-key", "metallb.io/allow-shared-ip", long.as_str(), "Assigned"),
        ("controls", "metallb.io/address-pool", "a\u{0}b\u{7f}\u{1b}[31m\n\"\u{202e}", "UnknownPool"),
        ("script", "metallb.io/loadBalancerIPs", "١٩٢.0.2.1", "InvalidRequest"),
        ("mapped", "metallb.io/loadBalancerIPs", "::ffff:10.99.1.1", "Assigned"),
        ("blanks", "metallb.io/loadBalancerIPs", " 10.99.1.2 ", "Assigned"),
        ("empty", "metallb.io/allow-shared-ip", "", "Assigned"),
    ] {
        create(&world, name, &json!({ key: value }), &four).await?;
        let message = world.reason(name, reason).await?;
        assert!(message.len() < 1024 && !message.chars().any(char::is_control), "{name}: {message}");
    }
    // A wish that becomes absurd leaves the address in place.
    let held = world.shown().await?;
    world.annotate("mapped", "metallb.io/loadBalancerIPs", &json!(long)).await?;
    world.reason("mapped", "InvalidRequest").await?;
    assert_eq!((world.shown().await?, surprises(&world.load)), (held, vec![]));
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_the_address_space_are_given_out() -> Result<()> {
    let world = World::new().await?;
    world.load.pool("main", &json!({ "addresses": ["0.0.0.0/0", "::/0"] })).await?;
    let controller = world.controller()?;
    let (four, six) = (json!(["IPv4"]), json!(["IPv6"]));
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for (name, family, asked, want) in [
        ("first-four", &four, None, "0.0.0.0"),
        ("last-four", &four, Some("255.255.255.255"), "255.255.255.255"),
        ("first-six", &six, None, "::"),
        ("last-six", &six, Some(last), last),
    ] {
        let annotations = asked.map_or(json!({}), |asked| json!({ "metallb.io/loadBalancerIPs": asked }));
        create(&world, name, &annotations, family).await?;
        world.reason(name, "Assigned").await?;
        assert_eq!(world.shown().await?.get(name), Some(&vec![want.to_owned()]));
    }
    let path = "jsonpath={.status.capacity.ipv4} {.status.capacity.ipv6} {.status.availableIPv6}";
    let look = || async { world.plane.kubectl(&["-n", "metallb-system", "get", "ipap", "main", "-o", path]) };
    let want = format!("4294967296 340282366920938463463374607431768211456 {}", i64::MAX);
    crate::fixture::until(look, |status| *status == want).await?;
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_pools_are_served() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    let block = |number: usize| format!("172.{}.{}.0/29", 16 + number / 256, number % 256);
    let pools = (0..10_000).map(|number| (format!("p-{number}"), json!({ "addresses": [block(number)] })));
    // The last is tried last, and the pool of the fixture comes before all of them.
    world.load.pools(pools.collect()).await?;
    world.load.create("unasked", 0..1).await?;
    world.load.wait_for(&names("unasked", 0..1), LIMIT).await?;
    create(&world, "last", &json!({ "metallb.io/address-pool": "p-9999" }), &json!(["IPv4"])).await?;
    let message = world.reason("last", "Assigned").await?;
    assert_eq!(message, format!("{} of pool \"p-9999\"", block(9_999).trim_end_matches("/29")));
    controller.stop().await
}
