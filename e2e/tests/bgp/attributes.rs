//! What a router reads of the attributes that advertisements set.

use anyhow::ensure;
use metallb_e2e::{observe::address, router::Frr};
use serde_json::json;

use crate::fixture::available;
use crate::peers::{ASN, Objects, attributes, edit, frr, peer, scene};

/// The advertisement of a scene with everything that changes a route.
const ALL: &str = ", localPref: 150, med: 20, asPathPrepend: 2, communities: ['64512:100', 'large:64512:1:2', \
                   no-advertise, colour]";

#[test]
fn a_router_of_another_as_reads_med_path_and_communities_of_all_kinds() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let _objects = Objects::apply(&[
        ("Community", "names", "{communities: [{name: colour, value: '64512:7'}]}"),
        ("BGPPeer", "router", &peer("172.22.0.1", "")),
    ]);
    let scene = scene("bgp-ebgp", "[198.51.100.32/30]", ALL);
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap().to_string();
    let want = json!({
        "path": "64512 64512 64512", "med": 20, "localPref": null,
        "communities": "64512:7 64512:100 no-advertise", "large": "64512:1:2",
    });
    frr.0
        .until("the route with its attributes", 30, |_| {
            let paths = frr.paths(&address)?;
            ensure!(paths.len() == 3 && paths.iter().all(|path| attributes(path) == want), "{paths:?}");
            Ok(())
        })
        .unwrap();
    // An edit of the advertisement changes the route, and ends no session.
    let up = |frr: &Frr| {
        let found = frr.json("show bgp neighbors")?;
        let dropped =
            found.as_object().into_iter().flatten().map(|(_, peer)| peer["connectionsDropped"].clone());
        anyhow::Ok(dropped.collect::<Vec<_>>())
    };
    let before = up(&frr).unwrap();
    edit("BGPAdvertisement", scene.name, "{ipAddressPools: [bgp-ebgp], communities: ['64512:8']}");
    frr.0
        .until("the other community", 30, |_| {
            let paths = frr.paths(&address)?;
            ensure!(paths.iter().all(|path| path["community"]["string"] == "64512:8"), "{paths:?}");
            Ok(())
        })
        .unwrap();
    edit("BGPPeer", "router", &peer("172.22.0.1", ", peerPort: 179, disableMP: true"));
    // What comes later has arrived: the edit before it was acted on.
    edit("BGPAdvertisement", scene.name, "{ipAddressPools: [bgp-ebgp], communities: ['64512:9']}");
    frr.0
        .until("the community of a later edit", 30, |_| {
            let paths = frr.paths(&address)?;
            ensure!(paths.len() == 3, "{paths:?}");
            ensure!(paths.iter().all(|path| path["community"]["string"] == "64512:9"), "{paths:?}");
            Ok(())
        })
        .unwrap();
    assert_eq!(up(&frr).unwrap(), before);
}

#[test]
fn a_router_of_the_same_as_reads_local_pref_and_an_aggregate() {
    available();
    let config = frr("").replace("router bgp 64513", "router bgp 64512");
    let frr = Frr::start("router", &config).unwrap();
    let internal = format!("{{myASN: {ASN}, peerASN: {ASN}, peerAddress: 172.22.0.1}}");
    let _objects = Objects::apply(&[("BGPPeer", "router", &internal)]);
    let scene = scene("bgp-ibgp", "[198.51.100.40/30]", ", localPref: 150, aggregationLength: 30");
    scene.service("web", "");
    address(scene.name, "web").unwrap();
    let want = json!({ "path": "Local", "med": null, "localPref": 150, "communities": null, "large": null });
    frr.0
        .until("the aggregate with its LOCAL_PREF", 30, |_| {
            let paths = frr.paths("198.51.100.40/30")?;
            ensure!(paths.len() == 3 && paths.iter().all(|path| attributes(path) == want), "{paths:?}");
            Ok(())
        })
        .unwrap();
}
