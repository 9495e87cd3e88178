//! How peers are chosen and connections given to them.

use metallb_core::config::Objects;
use metallb_core::plan::World;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::*;

#[test]
fn of_two_routers_with_one_address_the_interface_tells_whose_connection_it_is() {
    let at = |text: &str| Endpoint::Address(text.parse().unwrap());
    let link = Endpoint::Interface("eth1".into());
    for (endpoint, wanted, from, device, want) in [
        (at("192.0.2.1"), None, "192.0.2.1", None, Some(0)),
        (at("192.0.2.1"), None, "192.0.2.2", None, None),
        (at("192.0.2.1"), None, "192.0.2.1", Some("red"), Some(1)),
        (at("192.0.2.1"), Some("red"), "192.0.2.1", Some("red"), Some(0)),
        (at("192.0.2.1"), Some("red"), "192.0.2.1", None, Some(1)),
        (at("192.0.2.1"), Some("red"), "192.0.2.1", Some("blue"), None),
        (at("192.0.2.1"), None, "::ffff:192.0.2.1", None, Some(0)),
        (at("fe80::1"), None, "fe80::1", Some("eth1"), Some(1)),
        (at("fe80::1"), Some("eth1"), "fe80::1", Some("eth1"), Some(0)),
        (at("fe80::1"), Some("eth2"), "fe80::1", Some("eth1"), None),
        (link, None, "fe80::1", Some("eth1"), None),
    ] {
        let got = fits(&endpoint, wanted, from.parse().unwrap(), device);
        assert_eq!(got, want, "{endpoint:?} {wanted:?}, from {from} on {device:?}");
    }
}

#[tokio::test]
async fn a_peer_that_waits_for_its_secret_comes_back_too() {
    let router = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = json!({
        "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": { "name": "router" },
        "spec": {
            "myASN": 64512, "peerASN": 64513, "peerAddress": "127.0.0.1", "enableGracefulRestart": true,
            "peerPort": router.local_addr().unwrap().port(), "passwordSecret": { "name": "pass" },
        },
    });
    let mut peer: metallb_api::BGPPeer = serde_json::from_value(peer).unwrap();
    let wanted = |peer: &metallb_api::BGPPeer| {
        let objects = Objects { bgp_peers: vec![peer], ..Objects::default() };
        let (config, problems) = metallb_core::config::parse(&objects);
        assert_eq!(problems, []);
        let nodes = [("node1".to_owned(), metallb_core::plan::Node::default())].into();
        let world = World { config, nodes, ..World::default() };
        let plan = metallb_core::routes::plan(&world, "node1");
        let router_id = spec::router_id(None, "node1");
        let node = spec::Node { router_id, backend: spec::Backend::Native, listens: false, preserved: true };
        Wanted::of(&world.config, plan, node, &BTreeMap::new()).peers
    };
    let metrics = BgpMetrics::default();
    let (bfd, _watching) = bfd::task(metrics.bfd.clone());
    let mut peers = Peers {
        statuses: watch::Sender::default(),
        metrics,
        bfd,
        listener: None,
        look_again: None,
        addresses: watch::Sender::default(),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
        returning: None,
    };
    peers.follow(&wanted(&peer));
    assert!(peers.running.is_empty(), "the Secret was not read");
    // As good as a Secret that was: loopback has no other password.
    peer.spec.password_secret = None;
    for (session, restarting) in [("first", true), ("second", false)] {
        peers.follow(&wanted(&peer));
        let (mut stream, _) = router.accept().await.unwrap();
        let mut open = vec![0; 4096];
        let length = stream.read(&mut open).await.unwrap();
        // Graceful Restart (64), of which the first bit of its value is R; one family.
        let at = open[..length].windows(2).position(|pair| pair == [64, 6]).unwrap();
        assert_eq!(open[at + 2] & 0x80 != 0, restarting, "{session} session");
        stop(&peers.running["router"].orders, &Stop::Reset);
        drop(stream);
        let name = peers.tasks.join_next().await.unwrap().unwrap();
        peers.ended(&name);
    }
}

#[test]
fn a_router_signs_wherever_its_connection_may_be_taken_for_its_peer() {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let key = |text: &str| Key::new(text.as_bytes());
    let (red, blue, plain) = (key("red"), key("blue"), key("plain"));
    let one = ip("192.0.2.1");
    let keys = |pairs: &[(IpAddr, &Key)]| -> Keys {
        pairs.iter().map(|(address, key)| (*address, (*key).clone())).collect()
    };
    let by_device = |list: &[(Option<&str>, Keys)]| -> BTreeMap<Option<String>, Keys> {
        list.iter().map(|(device, keys)| (device.map(str::to_owned), keys.clone())).collect()
    };
    for (what, peers, want) in [
        ("nobody", vec![], by_device(&[(None, keys(&[]))])),
        (
            "in a VRF: elsewhere nobody comes unsigned in its name",
            vec![(one, Some("red"), Some(&red))],
            by_device(&[(None, keys(&[(one, &red)])), (Some("red"), keys(&[(one, &red)]))]),
        ),
        (
            "one address in two VRFs, each with its own",
            vec![(one, Some("red"), Some(&red)), (one, Some("blue"), Some(&blue))],
            by_device(&[
                (None, keys(&[(one, &red)])),
                (Some("blue"), keys(&[(one, &blue)])),
                (Some("red"), keys(&[(one, &red)])),
            ]),
        ),
        (
            "a router that comes by an interface which another peer is bound to",
            vec![(ip("192.0.2.2"), Some("eth1"), None), (one, None, Some(&plain))],
            by_device(&[(None, keys(&[(one, &plain)])), (Some("eth1"), keys(&[(one, &plain)]))]),
        ),
        (
            "of two peers with one address the one that fits best says whether it signs",
            vec![(one, None, None), (one, Some("red"), Some(&red))],
            by_device(&[(None, keys(&[])), (Some("red"), keys(&[(one, &red)]))]),
        ),
    ] {
        assert_eq!(passwords(&peers), want, "{what}");
    }
}

#[test]
fn packets_are_dropped_by_their_ttl_before_a_connection_only_where_all_peers_want_it() {
    use spec::Ttl::{Default as Kernel, Security};
    let far = |hops: u8| Security { hops };
    for (ttls, want) in [
        (vec![], None),
        (vec![Kernel], None),
        (vec![far(1)], Some(255)),
        (vec![far(1), far(3)], Some(253)),
        (vec![far(1), Kernel], None),
    ] {
        let peer = |ttl| WantedPeer {
            endpoint: Endpoint::Address([192, 0, 2, 1].into()),
            vrf: None,
            spec: Ok(Arc::new(Spec { ttl, ..spec::tests::least() })),
            bfd: None,
            distance: metallb_core::config::Distance::OneHop,
            routes: Arc::default(),
        };
        let peers = ttls.iter().enumerate().map(|(index, ttl)| (index.to_string(), peer(*ttl))).collect();
        assert_eq!(least_ttl(&peers), want, "{ttls:?}");
    }
}
