//! A node that announces is lost, and comes back.

use std::{collections::BTreeSet, time::Instant};

use anyhow::ensure;
use metallb_e2e::{
    cluster,
    observe::{address, fetch, nodes_by_mac, owner, who_has},
    outage::Client,
    power::{self, Mode},
};

use crate::fixture::{Scene, eventually};

/// Connects the node again, also when the test fails.
struct Off(String);

impl Drop for Off {
    fn drop(&mut self) {
        let _ = power::on(&self.0);
    }
}

fn move_and_return(scene: &Scene, service: &str) {
    if cluster::is_external() {
        println!("skipped: the nodes of an existing cluster are left alone");
        return;
    }
    let address = address(scene.name, service).unwrap();
    eventually("an answer", 20, || fetch(address).map(drop));
    let before = owner(address).unwrap();
    let client = Client::start(address);
    let cut = Off(before.clone());
    power::off(&before, Mode::Dark).unwrap();
    eventually("another node to answer", 5, || {
        let now = owner(address)?;
        ensure!(now != before, "still {now}");
        Ok(())
    });
    eventually("answers again", 5, || fetch(address).map(drop));
    let after = owner(address).unwrap();
    let outage = client.outages().unwrap().first().copied().unwrap_or_default();
    println!(
        "{address}: {before} was powered off; the client was without an answer for {} ms",
        outage.as_millis()
    );
    assert!(outage.as_secs() < 5, "{outage:?}");

    let returned = Instant::now();
    drop(cut);
    let nodes = nodes_by_mac().unwrap();
    let mut several = Vec::new();
    eventually("the node to take its address back, or leave it", 20, || {
        let answers: BTreeSet<_> = who_has(address)?.into_iter().collect();
        let names: Vec<_> = answers.iter().filter_map(|mac| nodes.get(mac)).cloned().collect();
        if names.len() > 1 {
            several.push((returned.elapsed(), names.clone()));
        }
        // Settled means: the speakers see each other again, so that the hash's choice is what it was.
        ensure!(names == [before.clone()], "{names:?}, with {after} in between");
        Ok(())
    });
    println!(
        "{address}: back on {before} after {} ms; moments with two owners: {several:?}",
        returned.elapsed().as_millis()
    );
    assert!(several.iter().all(|(at, _)| at.as_secs() < 5), "the old owner fights: {several:?}");
    for _ in 0..5 {
        assert_eq!(owner(address).unwrap(), before);
    }
    eventually("answers after the return", 5, || fetch(address).map(drop));
}

#[test]
fn an_ipv4_address_moves_when_its_node_is_lost_and_nobody_fights_when_it_returns() {
    let scene = Scene::new("failover", "[172.22.0.176/30]");
    scene.service("web", ", externalTrafficPolicy: Local");
    move_and_return(&scene, "web");
}

#[test]
fn an_ipv6_address_moves_when_its_node_is_lost_and_nobody_fights_when_it_returns() {
    let scene = Scene::new("failover6", "[fd00:22::176/126]");
    scene.service("web", ", externalTrafficPolicy: Local, ipFamilies: [IPv6]");
    move_and_return(&scene, "web");
}
