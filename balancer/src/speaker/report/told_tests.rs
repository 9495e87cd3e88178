use super::*;
use metallb_proto::layer2::MacAddress;

const ADDRESS: &str = "172.22.0.100";

fn announcement() -> Announcement {
    Announcement {
        uid: "u".to_owned(),
        addresses: vec![ADDRESS.parse().unwrap()],
        interfaces: vec![],
        record: "node1,eth0".to_owned(),
    }
}

fn standing(announced: bool, conflict: Option<bool>) -> Standing {
    let address: IpAddr = ADDRESS.parse().unwrap();
    let mac = MacAddress([2, 0, 0, 0, 0, 9]);
    Standing {
        announced: announced.then_some(address).into_iter().collect(),
        failed: BTreeSet::new(),
        yielded: BTreeSet::new(),
        broken: BTreeSet::new(),
        conflicts: conflict.map(|withheld| (address, Conflict { mac, withheld })).into_iter().collect(),
    }
}

#[test]
fn a_conflict_is_told_once_and_so_is_its_end() {
    let found = |announced, reason: &str, message: &str| Finding {
        announced,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let withheld = found(false, "Conflict", "02:00:00:00:00:09 has 172.22.0.100: not announced");
    let over = found(true, "Announced", "on layer 2");
    let other = found(false, "NoReadyEndpoint", "");
    let cases = [
        (None, standing(true, None), None),
        (None, standing(false, None), None),
        (None, standing(false, Some(true)), Some(&withheld)),
        (Some(&withheld), standing(false, Some(true)), None),
        (Some(&withheld), standing(false, None), None),
        (Some(&withheld), standing(true, None), Some(&over)),
        (Some(&over), standing(true, None), None),
        (Some(&over), standing(true, Some(false)), None),
        (Some(&other), standing(true, None), None),
        (Some(&other), standing(false, Some(true)), Some(&withheld)),
    ];
    for (now, standing, want) in cases {
        assert_eq!(finding(now, &announcement(), &standing).as_ref(), want, "{now:?} {standing:?}");
    }
}

#[test]
fn a_service_is_told_as_announced_when_all_of_its_addresses_are() {
    let key = ServiceKey::new("default", "web");
    let mut announced = Announced::default();
    announced.services.insert(key.clone(), announcement());
    assert_eq!(announced.on_wire(&standing(true, None)), [(key.clone(), announcement())].into());
    assert_eq!(announced.on_wire(&standing(false, Some(true))), BTreeMap::new());
    let both = Announcement {
        addresses: vec![ADDRESS.parse().unwrap(), "fd00:22::100".parse().unwrap()],
        ..announcement()
    };
    announced.services.insert(key.clone(), both.clone());
    assert_eq!(announced.on_wire(&standing(true, None)), BTreeMap::new());

    // Of the two the link carries one.
    let failed = |announced, conflict| Standing {
        failed: [both.addresses[1]].into(),
        ..standing(announced, conflict)
    };
    assert_eq!(announced.on_wire(&failed(true, None)), [(key.clone(), both.clone())].into());
    assert_eq!(announced.addresses(&failed(true, None)), [(key, both.addresses[0])].into());
    for nothing in [failed(false, None), failed(false, Some(true))] {
        assert_eq!(announced.on_wire(&nothing), BTreeMap::new());
        assert_eq!(announced.addresses(&nothing), BTreeSet::new());
    }
}

#[test]
fn a_failure_is_told_once_when_it_lasts_and_again_when_it_comes_back() {
    let key = ServiceKey::new("default", "web");
    let mut planned = Announced::default();
    planned.services.insert(key.clone(), announcement());
    let failing = Standing { failed: [ADDRESS.parse().unwrap()].into(), ..Standing::default() };
    let origin = Instant::now();
    let at = |second| origin + Duration::from_secs(second);
    let mut failures = Failures::default();
    failures.follow(at(0), &planned, &failing);
    assert_eq!((failures.due(at(1)), failures.deadline()), (vec![], Some(at(2))));
    failures.follow(at(1), &planned, &standing(true, None));
    assert_eq!(failures.deadline(), None, "it was short");

    failures.follow(at(10), &planned, &failing);
    assert_eq!(failures.due(at(12)), std::slice::from_ref(&key));
    assert_eq!(failures.due(at(13)), std::slice::from_ref(&key), "until it was told");
    failures.told(&key);
    failures.follow(at(60), &planned, &failing);
    assert_eq!((failures.due(at(60)), failures.deadline()), (vec![], None));

    failures.follow(at(70), &Announced::default(), &failing);
    failures.follow(at(80), &planned, &failing);
    assert_eq!(failures.due(at(82)), [key]);
}
