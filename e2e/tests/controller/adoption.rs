//! Starts, restarts and takeovers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use metallb_e2e::plane::subject::Subject;
use serde_json::json;

use crate::fixture::{LIMIT, World, names, surprises, until};

/// What a controller writes that is about Services or pools.
fn writes(world: &World, from: usize) -> Vec<(String, usize)> {
    let (requests, _) = world.plane.requests(from);
    let reads = ["get ", "list ", "watch "];
    let writes = requests.into_iter().filter(|(what, _)| !reads.iter().any(|read| what.starts_with(read)));
    writes.filter(|(what, _)| !what.contains("leases")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_appear_30_s_after_the_start_change_nothing() -> Result<()> {
    let world = World::new().await?;
    world.load.create("held", 0..20).await?;
    for number in 0..20 {
        world.hold(&format!("held-{number}"), &format!("10.99.7.{number}")).await?;
    }
    let before = world.shown().await?;
    world.plane.kubectl(&["delete", "crd", "ipaddresspools.metallb.io"])?;
    let controller = world.controller()?;
    // The kind is not even served: that is no empty configuration, and nothing is said about it.
    let log = || async { Ok(std::fs::read_to_string(world.log())?) };
    until(log, |log| log.contains("watch interrupted")).await?;
    assert_eq!(world.condition("held-0", "metallb.io/AddressAssigned").await?, None);

    world.plane.install().await?;
    let message = world.reason("held-19", "PoolMissing").await?;
    assert_eq!(message, "keeps 10.99.7.19: no pool holds it");
    let since = Instant::now();
    let look = || async { Ok((since.elapsed(), world.shown().await?)) };
    let (_, shown) = until(look, |(since, _)| *since > Duration::from_secs(30)).await?;
    assert_eq!(shown, before);

    world.load.pool("main", &json!({ "addresses": ["10.99.0.0/16"] })).await?;
    world.reason("held-19", "Assigned").await?;
    assert_eq!((world.shown().await?, surprises(&world.load)), (before, vec![]));

    // The kind is deleted for longer than a pool may be away, and comes back.
    world.plane.kubectl(&["delete", "crd", "ipaddresspools.metallb.io"])?;
    let since = Instant::now();
    let look = || async { Ok((since.elapsed(), surprises(&world.load))) };
    until(look, |(since, _)| *since > Duration::from_secs(15)).await?;
    world.plane.install().await?;
    world.load.pool("main", &json!({ "addresses": ["10.99.0.0/16"] })).await?;
    world.load.create("new", 0..1).await?;
    world.load.wait_for(&names("new", 0..1), LIMIT).await?;
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_200_times_loses_no_address_and_gives_none_twice() -> Result<()> {
    let world = World::new().await?;
    let mut controller = world.controller()?;
    for round in 0..200 {
        // Deletions too, so that addresses are given out again.
        let (first, created) = (round * 5, world.load.create("s", round * 5..round * 5 + 5));
        if round % 3 == 2 {
            let gone = (first - 10..first - 8).map(|number| format!("s-{number}")).collect();
            tokio::try_join!(created, world.load.delete(gone))?;
        } else {
            created.await?;
        }
        // Another point each time: after so many more Services have their address, from none to eight.
        let wanted = world.load.addressed() + (round * 7) % 9;
        let soon = world.load.wait_for_count(wanted, Duration::from_millis(300)).await;
        drop(soon);
        controller.kill()?;
        controller = world.controller()?;
        assert_eq!(surprises(&world.load), Vec::<String>::new(), "round {round}");
    }
    let left = world.services().list(&Default::default()).await?.items.len() - 1;
    world.load.wait_for_count(left, LIMIT).await?;
    assert_eq!(surprises(&world.load), Vec::<String>::new());

    controller.stop().await?;
    let (_, from) = world.plane.requests(0);
    let controller = world.controller()?;
    world.load.create("last", 0..1).await?;
    world.load.wait_for(&names("last", 0..1), LIMIT).await?;
    let look = || async { Ok(writes(&world, from)) };
    let wrote = until(look, |wrote| wrote.len() >= 3).await?;
    assert_eq!(
        wrote.iter().filter(|(what, _)| !what.contains("ipaddresspools")).cloned().collect::<Vec<_>>(),
        [("create events".to_owned(), 1), ("patch services/status".to_owned(), 1)],
        "a restart with {left} held writes about the new Service alone"
    );
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_succeeded_and_writes_nothing_when_it_wakes() -> Result<()> {
    let users = ["first", "second"].map(str::to_owned);
    let world = World::with_users(&users).await?;
    let first = world.controller_by(&world.plane.path("first"), "first")?;
    world.load.create("a", 0..5).await?;
    world.load.wait_for(&names("a", 0..5), LIMIT).await?;
    let second = world.controller_by(&world.plane.path("second"), "second")?;
    // In the midst of its work: it has decided about Services, and has not written all of that.
    let many = world.load.create("b", 0..400);
    let freeze = async {
        world.load.wait_for_count(50, LIMIT).await?;
        first.freeze()
    };
    tokio::try_join!(many, freeze)?;
    let addressed = world.load.addressed();
    ensure!(addressed < 5 + 400, "all {addressed} had an address before it was frozen");
    world.load.wait_for(&names("b", 0..400), LIMIT).await?;
    let (_, from) = world.plane.requests(0);
    first.thaw()?;
    world.load.create("c", 0..50).await?;
    world.load.wait_for(&names("c", 0..50), LIMIT).await?;
    // It has asked for the Lease again, and has been told that it is another's.
    let asked = || async { Ok(world.plane.requests_of("first", from).0) };
    until(asked, |asked| asked.keys().any(|what| what.contains("leases"))).await?;
    let writes = |(what, _): &(String, usize)| {
        !["get ", "list ", "watch "].iter().any(|read| what.starts_with(read)) && !what.contains("leases")
    };
    let wrote: Vec<_> = world.plane.requests_of("first", from).0.into_iter().filter(writes).collect();
    assert_eq!(wrote, [], "of the one that woke up");
    assert_eq!(surprises(&world.load), Vec::<String>::new());

    // The one that woke up stands by, and takes over when the other ends.
    second.stop().await?;
    world.load.create("d", 0..5).await?;
    let started = Instant::now();
    world.load.wait_for(&names("d", 0..5), LIMIT).await?;
    assert!(started.elapsed() < Duration::from_secs(8), "a released Lease was waited for");
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    first.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_outlives_the_controller() -> Result<()> {
    let world = World::new().await?;
    world.load.pool("main", &json!({ "addresses": ["10.99.0.0/31"], "cooldown": "1h" })).await?;
    let controller = world.controller()?;
    world.load.create("a", 0..2).await?;
    world.load.wait_for(&names("a", 0..2), LIMIT).await?;
    let before = world.shown().await?;
    world.load.delete(vec!["a-1".to_owned()]).await?;
    world.load.create("b", 0..1).await?;
    world.reason("b-0", "NoAvailableIPs").await?;
    let noted = || async {
        world.plane.kubectl(&["-n", "metallb-system", "get", "ipap", "main", "-o", "jsonpath={.status}"])
    };
    until(noted, |status| status.contains("default/a-1")).await?;
    kill(controller)?;

    let controller = world.controller()?;
    world.load.create("c", 0..1).await?;
    world.reason("c-0", "NoAvailableIPs").await?;
    world.load.create("a", 1..2).await?;
    world.load.wait_for(&names("a", 0..2), LIMIT).await?;
    assert_eq!(world.shown().await?, before, "the Service has its address back, and nobody else has it");
    controller.stop().await
}

fn kill(controller: Subject) -> Result<()> {
    controller.kill()
}
