//! What is chosen by advertisement or by the MetalLB resource: even spreads, fencing, checks on the wire, interfaces.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    cluster,
    deploy::NAMESPACE,
    exec::{run_on, wait_until},
    observe::{address, condition, get, kube, owner, who_has},
    options::{self, Undo},
    power,
    wire::Watch,
};
use nix::sys::signal::Signal;

use crate::{
    fixture::{Scene, eventually},
    owners::{advertised, other_than, owned_by, served},
};

/// The owners of the addresses 172.22.0.FIRST to LAST.
fn owners(addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, String>> {
    addresses.iter().map(|address| Ok((*address, owner(*address)?))).collect()
}

fn loads(owners: &BTreeMap<IpAddr, String>) -> Vec<usize> {
    let of = |node: &str| owners.values().filter(|owner| *owner == node).count();
    ["node1", "node2", "node3"].map(of).into()
}

#[test]
fn an_even_election_spreads_addresses_and_leaves_them_where_they_are() {
    let scene = Scene::new("even", "[172.22.0.220/32]");
    let _pool = advertised(&scene, "172.22.0.208/29", "electionPolicy: Even");
    let name = scene.name;
    let addresses: Vec<IpAddr> = (1..=6)
        .map(|number| {
            let service = format!("web{number}");
            kube(&format!("-n {name} create service loadbalancer {service} --tcp=80:8080")).unwrap();
            kube(&format!("-n {name} annotate service {service} metallb.io/address-pool={name}-own"))
                .unwrap();
            kube(&format!("-n {name} set selector service {service} app=web")).unwrap();
            address(name, &service).unwrap()
        })
        .collect();
    let mut before = BTreeMap::new();
    eventually("two addresses on each node", 20, || {
        before = owners(&addresses)?;
        ensure!(loads(&before) == [2, 2, 2], "{before:?}");
        Ok(())
    });
    eventually("the Lease to say so", 10, || {
        let lease = get(&["-n", NAMESPACE, "lease", &format!("l2-owners-{name}-own")])?;
        let text = lease["metadata"]["annotations"]["metallb.io/l2-owners"].as_str().context("no owners")?;
        for (address, node) in &before {
            ensure!(text.contains(&format!("{address}={node}/")), "{text}");
        }
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} delete pod -l app=metallb,component=speaker --wait=true")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    eventually("every address where it was, after all speakers started anew", 15, || {
        let after = owners(&addresses)?;
        ensure!(after == before, "{after:?}");
        Ok(())
    });

    // One node less, and back: what was on the others stays.
    let exclude = "node.kubernetes.io/exclude-from-external-load-balancers";
    let undo = Undo(|| drop(kube(&format!("label node node2 {exclude}-"))));
    kube(&format!("label node node2 {exclude}=")).unwrap();
    let mut without = BTreeMap::new();
    eventually("three addresses on each of two nodes", 10, || {
        without = owners(&addresses)?;
        ensure!(loads(&without) == [3, 0, 3], "{without:?}");
        Ok(())
    });
    for (address, node) in before.iter().filter(|(_, node)| *node != "node2") {
        assert_eq!(without[address], *node, "{address} moved");
    }
    drop(undo);
    eventually("two addresses on each node", 10, || {
        let back = owners(&addresses)?;
        ensure!(loads(&back) == [2, 2, 2], "{back:?}");
        Ok(())
    });
}

#[test]
fn with_strict_fencing_a_node_that_is_alone_is_silent_before_another_answers() {
    let scene = Scene::new("fenced", "[172.22.0.221/32]");
    let _options = options::layer2(r#"{"fencing":"Strict"}"#, "--fencing=Strict").unwrap();
    let address = served(&scene, "web", "");
    let before = owner(address).unwrap();
    let watch = Watch::start(address).unwrap();
    let _undo = Undo(|| drop(power::meet()));
    // The client hears both halves.
    power::part(&before).unwrap();
    let after = other_than(address, &before);
    eventually("the node that is alone to be silent", 10, || owned_by_now(address, &after));
    let parted = watch.answers().unwrap();
    power::meet().unwrap();
    owned_by(address, &before);
    let account = metallb_e2e::wire::account(&parted);
    println!("{address}: {account:?}");
    assert_eq!(account.owners, [before, after]);
    assert_eq!(account.contested, Duration::ZERO, "{account:?}");
    assert!(account.silence < Duration::from_secs(3), "{account:?}");
}

/// Lets speakers run on these nodes alone, until the value is dropped.
fn speakers_on(nodes: &[&str]) -> Result<Undo<impl FnMut() + use<>>> {
    let nodes: Vec<String> = nodes.iter().map(|node| (*node).to_owned()).collect();
    let set = |selector: &str| -> Result<()> {
        let patch = format!(r#"{{"spec":{{"nodeSelector":{selector}}}}}"#);
        kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {patch}"))?;
        let wanted = if selector == "null" { 3 } else { 2 };
        wait_until("the DaemonSet to follow", Duration::from_secs(30), || {
            let status = &get(&["-n", NAMESPACE, "daemonset", "speaker"])?["status"];
            Ok((status["desiredNumberScheduled"] != wanted).then(|| status.to_string()))
        })?;
        kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s")).map(drop)
    };
    for node in &nodes {
        kube(&format!("label node {node} metallb-e2e/speaks=yes"))?;
    }
    let undo = Undo(move || {
        drop(set("null"));
        for node in &nodes {
            drop(kube(&format!("label node {node} metallb-e2e/speaks-")));
        }
    });
    set(r#"{"metallb-e2e/speaks":"yes"}"#)?;
    Ok(undo)
}

#[test]
fn of_two_nodes_that_part_the_one_with_the_lease_goes_on() {
    let scene = Scene::new("witness", "[172.22.0.237/32]");
    let _options = options::layer2(r#"{"fencing":"Strict"}"#, "--fencing=Strict").unwrap();
    let _two = speakers_on(&["node1", "node2"]).unwrap();
    let address = served(&scene, "web", "");
    let holder = || -> Result<String> {
        let lease = get(&["-n", NAMESPACE, "lease", "speaker-witness"])?;
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
        Ok(holder.context("held by nobody")?.to_owned())
    };
    let watch = Watch::start(address).unwrap();
    let _undo = Undo(|| drop(power::meet()));
    power::part("node1").unwrap();
    // A node that lately had a speaker counts for a minute, and two of three are needed until then.
    eventually("the API server to be asked, and who has its word to answer", 120, || {
        let (holder, owner) = (holder()?, owner(address)?);
        ensure!(holder == owner, "{holder} holds the Lease, {owner} answers");
        Ok(())
    });
    assert_eq!(cluster::signal("kube-apiserver", Signal::SIGSTOP).unwrap(), 1);
    let going_on = Undo(|| drop(cluster::signal("kube-apiserver", Signal::SIGCONT)));
    eventually("both to be silent without the API server", 30, || {
        let answers = who_has(address)?;
        ensure!(answers.is_empty(), "{answers:?}");
        Ok(())
    });
    drop(going_on);
    eventually("one to answer again", 60, || owner(address).map(drop));
    let account = metallb_e2e::wire::account(&watch.answers().unwrap());
    println!("{address}: {account:?}");
    assert_eq!(account.contested, Duration::ZERO, "{account:?}");
    power::meet().unwrap();
    eventually("the Lease to be given up when the other is heard again", 60, || {
        let holder = holder();
        ensure!(holder.is_err(), "{holder:?}");
        owner(address).map(drop)
    });
}

fn owned_by_now(address: IpAddr, node: &str) -> Result<()> {
    let now = owner(address)?;
    ensure!(now == node, "{now}");
    Ok(())
}

#[test]
fn a_second_host_that_answers_is_seen_by_another_node() {
    let scene = Scene::new("checked", "[172.22.0.222/32]");
    let _options = options::layer2(r#"{"wireCheck":"Continuous"}"#, "--wire-check=Continuous").unwrap();
    let address = served(&scene, "web", "");
    let states = || -> Result<Vec<(String, String, String)>> {
        let list = get(&["-n", NAMESPACE, "configurationstates"])?;
        let items = list["items"].as_array().context("no list")?;
        Ok(items.iter().filter_map(|item| condition(item, "WireCheckFailed")).collect())
    };
    eventually("a node to see that the owner answers alone", 20, || {
        let states = states()?;
        ensure!(
            states.iter().any(|(status, reason, _)| status == "False" && reason == "Passed"),
            "{states:?}"
        );
        Ok(())
    });
    let squat = |what: &str| run_on("client", &format!("ip addr {what} {address}/32 dev eth0"));
    let undo = Undo(|| drop(squat("del")));
    squat("add").unwrap();
    eventually("the second host to be seen", 30, || {
        let states = states()?;
        let seen = |message: &str| message.contains(&format!("answers for {address}"));
        ensure!(states.iter().any(|(status, _, message)| status == "True" && seen(message)), "{states:?}");
        Ok(())
    });
    drop(undo);
    eventually("nothing to be wrong any more", 30, || {
        let states = states()?;
        ensure!(states.iter().all(|(status, ..)| status == "False"), "{states:?}");
        Ok(())
    });
}

#[test]
fn interfaces_are_named_by_a_pattern_and_by_the_default_route() {
    let scene = Scene::new("interfaces", "[172.22.0.223/32]");
    for (interfaces, answers) in
        [("'eth[0-9]+'", true), ("default", true), ("'veth.*'", false), ("eth", false)]
    {
        let _pool = advertised(&scene, "172.22.0.224/32", &format!("interfaces: [{interfaces}]"));
        let name = scene.name;
        let _service = Undo(|| drop(kube(&format!("-n {name} delete service picked"))));
        kube(&format!("-n {name} create service loadbalancer picked --tcp=80:8080")).unwrap();
        kube(&format!("-n {name} annotate service picked metallb.io/address-pool={name}-own")).unwrap();
        kube(&format!("-n {name} set selector service picked app=web")).unwrap();
        let address = address(name, "picked").unwrap();
        if answers {
            eventually(&format!("an answer on {interfaces}"), 10, || owner(address).map(drop));
        } else {
            eventually(&format!("the Service to have no interface by {interfaces}"), 15, || {
                let service = get(&["-n", name, "service", "picked"])?;
                let (_, reason, _) = condition(&service, "metallb.io/Announced").context("no condition")?;
                ensure!(reason == "NoInterface", "{reason}");
                Ok(())
            });
            assert_eq!(who_has(address).unwrap(), Vec::<String>::new());
        }
    }
}
