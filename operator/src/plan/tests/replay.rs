//! An operator that is killed after any of its writes: the next one finishes the work, and what is there in the end is the
//! same.

use super::*;

/// How often the cluster has its turn.
const TURNS: usize = 8;

/// Everything that is there, but for what the API server adds.
fn all(bench: &Bench) -> BTreeMap<Key, Value> {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::MetalLb);
    let objects = kinds.flat_map(|kind| bench.world.objects(kind).map(move |object| (kind, object)));
    let essence = |(kind, object): (Kind, &kube::core::DynamicObject)| {
        let key = Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        let mut value = serde_json::to_value(object).unwrap();
        for field in ["resourceVersion", "managedFields"] {
            value["metadata"].as_object_mut().unwrap().remove(field);
        }
        (key, value)
    };
    objects.map(essence).collect()
}

/// Lets operator and cluster take turns. Workloads of an image that works run.
fn drive(bench: &mut Bench, works: impl Fn(&str) -> bool) {
    for _ in 0..TURNS {
        bench.settle();
        let key = key(Kind::Deployment, "controller");
        if bench.world.object(&key).is_some() && works(&bench.image(Kind::Deployment, "controller")) {
            bench.run();
        } else {
            bench.now = bench.now.checked_add(Duration::from_secs(601)).unwrap();
        }
        bench.works_for = Duration::from_secs(60);
        bench.settle();
    }
}

/// Has the operator killed after each of its writes, and compares what becomes of it.
fn killed_anywhere(scene: impl Fn() -> Bench, works: impl Fn(&str) -> bool, writes: usize) {
    let mut whole = scene();
    whole.writes = 0;
    drive(&mut whole, &works);
    let want = all(&whole);
    assert!(whole.writes >= writes, "{} writes", whole.writes);
    for number in 1..=whole.writes {
        let mut bench = scene();
        (bench.writes, bench.dies_after) = (0, Some(number));
        drive(&mut bench, &works);
        assert!(bench.writes >= number, "killed");
        pretty(&all(&bench), &want, number);
        assert_eq!(bench.degraded(), whole.degraded(), "killed after write {number}");
    }
}

fn pretty(found: &BTreeMap<Key, Value>, want: &BTreeMap<Key, Value>, number: usize) {
    let names = |all: &BTreeMap<Key, Value>| all.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(found), names(want), "killed after write {number}");
    for (key, object) in want {
        assert_eq!(found.get(key), Some(object), "{key}, killed after write {number}");
    }
}

#[test]
fn a_first_installation_is_finished_by_the_next_operator() {
    let scene = || {
        let mut bench = Bench::new();
        bench.put(Kind::MetalLb, metallb("{}"));
        bench
    };
    // The key of the gossip is a random one: of the operator that made it.
    killed_anywhere(scene, |_| true, 5);
}

#[test]
fn an_upgrade_is_finished_by_the_next_operator() {
    killed_anywhere(|| Bench::upgraded("{logLevel: debug}"), |_| true, 3);
}

#[test]
fn a_rollback_is_finished_by_the_next_operator() {
    let scene = || Bench::upgraded("{upgradePolicy: {onFailure: Rollback}}");
    killed_anywhere(scene, |image| image == "controller:1", 3);
}

#[test]
fn a_takeover_is_finished_by_the_next_operator() {
    let scene = || {
        let mut bench = Bench::new();
        adopt::manifests(&mut bench);
        bench.edit(Kind::MetalLb, "metallb", |object| {
            object["metadata"]["annotations"] = json!({ADOPT: "true"});
        });
        bench.world.take(node(
            json!({"metadata": {"name": "node1", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": "1"},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}], "images": [{"names": ["speaker:1"]}]}}),
        ));
        bench
    };
    killed_anywhere(scene, |image| image == "controller:1", 5);
}
