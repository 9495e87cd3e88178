//! What it tells: to who asks on the command line, to who reads its metrics, and in the status of pools.

use std::{
    process::{Command, Output},
    time::Instant,
};

use anyhow::{Context, Result};
use metallb_e2e::plane::{free_port, subject::Subject};
use serde_json::json;

use crate::fixture::{LIMIT, World, names, own, program, until};

fn ask(world: &World, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output: Output = Command::new(program()?)
        .env("KUBECONFIG", world.plane.controller_config())
        .env("METALLB_NAMESPACE", "metallb-system")
        .args(arguments)
        .output()?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_with_the_rights_of_the_controller() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    world.load.create("web", 0..2).await?;
    world.load.wait_for_count(2, LIMIT).await?;
    let (code, told) = ask(&world, &["--explain", "default/web-1"])?;
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(code, Some(0), "{told}");
    for line in [
        "Service      default/web-1",
        "asks for     one IPv4 address",
        "pools        main: could give [\"10.99.0.2\"]",
        "announced    no: NoAdvertisement: no L2Advertisement or BGPAdvertisement is about pool \"main\"",
    ] {
        assert!(lines.contains(&line), "{line} is not in:\n{told}");
    }
    assert!(lines.iter().any(|line| line.starts_with("outcome      keeps ")), "{told}");

    let folder = tempfile::tempdir()?;
    let pool = |addresses: &str| {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": "main", "namespace": "metallb-system" }, "spec": { "addresses": [addresses] },
        });
        std::fs::write(folder.path().join("pool.yaml"), object.to_string())
    };
    let path = folder.path().to_str().context("a path")?;
    pool("10.99.0.1/32")?;
    assert_eq!(ask(&world, &["--check", "-f", path])?, (Some(0), "1 objects, 0 problems\n".to_owned()));
    let (code, told) = ask(&world, &["--diff", "-f", path])?;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.ends_with("1 Services would lose or change their address\n"), "{told}");
    pool("10.99.0.1")?;
    let (code, told) = ask(&world, &["--check", "-f", path])?;
    assert_eq!(code, Some(1));
    assert!(told.starts_with("IPAddressPool \"main\": spec.addresses[0]: "), "{told}");
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_those_who_may_read_them() -> Result<()> {
    let world = World::new().await?;
    let (port, probes) = (free_port()?, free_port()?);
    let command = format!("{} --port={port} --health-probe-port={probes}", program()?.display());
    let controller = Subject::start(&command, &world.plane.controller_config(), &world.log())?;
    world.load.create("web", 0..3).await?;
    world.load.wait_for_count(3, LIMIT).await?;
    let get = |token: &str| -> Result<String> {
        let output = Command::new("curl")
            .args(["-sk", "-w", "%{http_code}", "-H", &format!("Authorization: Bearer {token}")])
            .arg(format!("https://127.0.0.1:{port}/metrics"))
            .output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    assert!(get("nobody")?.ends_with("401"));
    assert!(get("controller")?.ends_with("403"));
    let wanted = [
        "metallb_allocator_addresses_in_use_total{pool=\"main\"} 3",
        "metallb_allocator_addresses_total{pool=\"main\"} 65536",
        "metallb_allocator_ipv4_addresses_in_use_total{pool=\"main\"} 3",
        "metallb_allocator_ipv4_addresses_total{pool=\"main\"} 65536",
        "metallb_allocator_ipv6_addresses_in_use_total{pool=\"main\"} 0",
        "metallb_allocator_ipv6_addresses_total{pool=\"main\"} 0",
        "metallb_allocator_services_allocated_total{pool=\"main\"} 3",
        "metallb_allocator_allocation_duration_seconds_count 3",
        "metallb_k8s_client_config_loaded_bool 1",
        "metallb_k8s_client_config_stale_bool 0",
        "metallb_k8s_client_update_errors_total 0",
        "metallb_allocator_services_waiting 0",
    ];
    let shows = async |wanted: &[&str]| {
        // Some gauges are of whole numbers, and some are not.
        let is =
            |found: &str, line: &str| found.strip_prefix(line).is_some_and(|rest| ["", ".0"].contains(&rest));
        let all = |text: &String| wanted.iter().all(|line| text.lines().any(|found| is(found, line)));
        until(async || get("load"), all).await
    };
    let updates = |text: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix("metallb_k8s_client_updates_total "));
        line?.parse().ok()
    };
    let before = updates(&shows(&wanted).await?).context("updates")?;

    // Refusals by reason, what waits, and a mistake and its end.
    world.annotate("web-0", "metallb.io/address-pool", &json!("nowhere")).await?;
    world.load.pool("bad", &json!({ "addresses": ["10.97.0.0/33"] })).await?;
    let wanted = [
        "metallb_allocator_refusals_total{reason=\"UnknownPool\"} 1",
        "metallb_allocator_services_waiting 1",
        "metallb_k8s_client_config_stale_bool 1",
    ];
    let after = updates(&shows(&wanted).await?).context("updates")?;
    assert!(after > before, "{before} and then {after}");
    world.annotate("web-0", "metallb.io/address-pool", &serde_json::Value::Null).await?;
    world.load.pool("bad", &json!({ "addresses": ["10.97.0.0/24"] })).await?;
    shows(&["metallb_allocator_services_waiting 0", "metallb_k8s_client_config_stale_bool 0"]).await?;
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_pool_is_written_twice_a_second_at_most() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    // By then it knows all that it watches.
    world.load.create("first", 0..1).await?;
    world.condition_reason("first-0", "metallb.io/Announced", "NoAdvertisement").await?;
    let (started, (_, from)) = (Instant::now(), world.plane.requests(0));
    world.load.create("web", 0..3000).await?;
    world.load.wait_for_count(3001, LIMIT).await?;
    let path = "jsonpath={.status.assignedIPv4} {.status.availableIPv4} {.status.services}";
    let look = || async { world.plane.kubectl(&["-n", "metallb-system", "get", "ipap", "main", "-o", path]) };
    until(look, |status| status == "3001 62535 3001").await?;
    let seconds = started.elapsed().as_secs_f64();
    let (requests, _) = world.plane.requests(from);
    let writes = requests.get("patch ipaddresspools/status").copied().unwrap_or_default();
    assert!(writes as f64 <= 2.0 * seconds + 1.0, "{writes} writes in {seconds} s");
    assert_eq!(requests.get("patch services/status"), Some(&3000), "{requests:?}");
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_told_and_its_end_clears_every_mark() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    let state = || async {
        let path = "jsonpath={.status.result}: {.status.errorSummary}";
        world.plane.kubectl(&["-n", "metallb-system", "get", "configurationstate", "controller", "-o", path])
    };
    let ready = || async {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}";
        world.plane.kubectl(&["-n", "metallb-system", "get", "ipap", "other", "-o", path])
    };
    until(state, |told| told == "Valid: ").await?;
    world.load.pool("other", &json!({ "addresses": ["10.99.255.0/24"] })).await?;
    let overlap = "Invalid: IPAddressPool \"other\": spec.addresses[0]: 10.99.255.0/24 overlaps 10.99.0.0/16 of IPAddressPool \"main\"";
    until(state, |told| told == overlap).await?;
    until(ready, |reason| reason == "InvalidSpec").await?;
    world.load.create("web", 0..1).await?;
    world.load.wait_for(&names("web", 0..1), LIMIT).await?;
    world.load.pool("other", &json!({ "addresses": ["10.98.255.0/24"] })).await?;
    until(state, |told| told == "Valid: ").await?;
    until(ready, |reason| reason == "Served").await?;
    // Each configuration of pools that was taken is in the log: `main` alone, then with `other` wrong, then right.
    let log = std::fs::read_to_string(world.log())?;
    let loaded = log.lines().filter(|line| line.contains("configLoaded") && line.contains("\"pools\""));
    let loaded: Vec<serde_json::Value> = loaded.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let counts: Vec<_> =
        loaded.iter().map(|line| (line["pools"].as_u64(), line["problems"].as_u64())).collect();
    assert_eq!(counts, [(Some(1), Some(0)), (Some(1), Some(1)), (Some(2), Some(0))], "{log}");
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_of_the_configuration_says_whether_it_is_used() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    let valid = async |what: &str, want: &str| {
        let condition = "{range .status.conditions[?(@.type==\"Valid\")]}{.status} {.reason} {.message}{end}";
        let path = format!("jsonpath={condition}");
        let look = || async { world.plane.kubectl(&["-n", "metallb-system", "get", what, "-o", &path]) };
        until(look, |told| told == want).await.map(drop)
    };
    let community = |value: &str| {
        let spec = json!({ "communities": [{ "name": "gold", "value": value }] });
        world.apply(&own("Community", "names", &json!({ "spec": spec })))
    };
    let mut peer = own("BGPPeer", "router", &json!({ "apiVersion": "metallb.io/v1beta2" }));
    peer["spec"] =
        json!({ "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "bfdProfile": "fast" });
    let layer2 = |pools: &[&str]| {
        world.apply(&own("L2Advertisement", "all", &json!({ "spec": { "ipAddressPools": pools } })))
    };

    layer2(&["main", "main"])?;
    community("1:x")?;
    world.apply(&own("BGPAdvertisement", "all", &json!({ "spec": { "communities": ["gold"] } })))?;
    world.apply(&peer)?;
    let wrong_layer2 = "spec.ipAddressPools[1]: \"main\" is listed before";
    let wrong_community =
        "spec.communities[0].value: \"1:x\" is not a community: \"x\" is not a number from 0 to 65535";
    let unknown = "spec.communities: \"gold\" is not a community, and no Community defines this name";
    let missing = "spec.bfdProfile: no usable BFDProfile \"fast\"";
    valid("l2advertisement/all", &format!("False InvalidSpec {wrong_layer2}")).await?;
    valid("community/names", &format!("False InvalidSpec {wrong_community}")).await?;
    valid("bgpadvertisement/all", &format!("False UnresolvedReference {unknown}")).await?;
    valid("bgppeer/router", &format!("False UnresolvedReference {missing}")).await?;
    let state = || async {
        let path = "jsonpath={.status.errorSummary}";
        world.plane.kubectl(&["-n", "metallb-system", "get", "configurationstate", "controller", "-o", path])
    };
    let all = [
        format!("L2Advertisement \"all\": {wrong_layer2}"),
        format!("Community \"names\": {wrong_community}"),
        format!("BGPAdvertisement \"all\": {unknown}"),
        format!("BGPPeer \"router\": {missing}"),
    ];
    until(state, |told| *told == all.join("\n")).await?;

    layer2(&["main"])?;
    community("1:2")?;
    world.apply(&own("BFDProfile", "fast", &json!({})))?;
    for what in [
        "l2advertisement/all",
        "community/names",
        "bgpadvertisement/all",
        "bgppeer/router",
        "bfdprofile/fast",
    ] {
        valid(what, "True Used ").await?;
    }
    until(state, String::is_empty).await?;

    // Everything is said: what follows is written about a Service alone.
    let (_, from) = world.plane.requests(0);
    world.load.create("web", 0..1).await?;
    world.load.wait_for(&names("web", 0..1), LIMIT).await?;
    let log = std::fs::read_to_string(world.log())?;
    assert!(log.contains("configProblem"), "{log}");
    // Beside those about pools, each configuration of the other kinds that was taken.
    let loaded =
        log.lines().filter(|line| line.contains("configLoaded") && line.contains("\"l2_advertisements\""));
    let loaded: Vec<serde_json::Value> = loaded.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let counts: Vec<_> = loaded
        .iter()
        .map(|line| ["l2_advertisements", "peers", "problems"].map(|what| line[what].as_u64().unwrap_or(99)))
        .collect();
    assert!(counts.iter().any(|counts| counts[2] == 4), "{counts:?}");
    assert_eq!(counts.last(), Some(&[1, 1, 0]), "{counts:?}");
    let said = |what: &str| world.plane.requests(from).0.keys().any(|request| request.contains(what));
    for kind in ["l2advertisements", "bgpadvertisements", "bgppeers/status", "communities", "bfdprofiles"] {
        assert!(!said(&format!("patch {kind}")), "{kind}");
    }
    controller.stop().await
}
