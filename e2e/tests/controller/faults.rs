//! An API server that is away, refuses, loses answers, forgets versions or is slow.

use std::time::{Duration, Instant};

use anyhow::Result;
use kube::api::{DeleteParams, ListParams};
use metallb_e2e::plane::proxy::Faults;
use serde_json::json;

use crate::fixture::{LIMIT, World, names, surprises, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_a_minute_costs_no_address() -> Result<()> {
    let mut world = World::new().await?;
    let mut controller = world.controller()?;
    world.load.create("before", 0..300).await?;
    world.load.wait_for_count(50, LIMIT).await?;
    world.plane.stop_api_server();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(controller.runs()?, "it waits, and need not be started again");
    world.plane.start_api_server().await?;
    let back = Instant::now();
    world.load.create("after", 0..50).await?;
    world.load.wait_for_count(350, LIMIT).await?;
    assert!(back.elapsed() < Duration::from_secs(30), "{:?} after the API server was back", back.elapsed());
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_lost_answers_cost_no_address() -> Result<()> {
    let world = World::new().await?;
    let (proxy, config) = world.plane.proxy().await?;
    proxy.break_with(Faults { conflict_every: Some(2), ..Faults::default() });
    let controller = world.controller_by(&config, "controller")?;
    world.load.create("conflict", 0..300).await?;
    world.load.wait_for_count(300, LIMIT).await?;
    proxy.break_with(Faults { lose_answer_every: Some(3), ..Faults::default() });
    world.load.create("lost", 0..300).await?;
    world.load.delete(names("conflict", 0..100).into_iter().collect()).await?;
    world.load.wait_for(&names("lost", 0..300), LIMIT).await?;
    // What was given back is given out again, so that each address is used.
    world.load.create("again", 0..100).await?;
    world.load.wait_for(&names("again", 0..100), LIMIT).await?;
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_expire_lose_no_change() -> Result<()> {
    let world = World::new().await?;
    let (proxy, config) = world.plane.proxy().await?;
    let controller = world.controller_by(&config, "controller")?;
    for round in 0..5 {
        let prefix = format!("r{round}");
        world.load.create(&prefix, 0..40).await?;
        proxy.expire_watches();
        world.load.delete(names(&prefix, 0..10).into_iter().collect()).await?;
        world.load.create(&prefix, 40..60).await?;
        world.load.wait_for(&names(&prefix, 10..60), LIMIT).await?;
        let look = || async { Ok(proxy.unexpired()) };
        until(look, std::collections::BTreeSet::is_empty).await?;
    }
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_api_server_delays_and_does_no_harm() -> Result<()> {
    let world = World::new().await?;
    let (proxy, config) = world.plane.proxy().await?;
    proxy.break_with(Faults { delay: Duration::from_millis(500), ..Faults::default() });
    let controller = world.controller_by(&config, "controller")?;
    let started = Instant::now();
    world.load.create("slow", 0..320).await?;
    world.load.wait_for_count(320, LIMIT).await?;
    // 32 at a time, half a second each, and the start.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_services_deleted_at_once_give_their_addresses_back() -> Result<()> {
    let world = World::new().await?;
    world.load.pool("main", &json!({ "addresses": ["10.99.0.0-10.99.39.16"] })).await?;
    let controller = world.controller()?;
    world.load.create("many", 0..10_000).await?;
    world.load.wait_for_count(10_000, LIMIT * 3).await?;
    let all = ListParams::default().labels("bench=load");
    world.services().delete_collection(&DeleteParams::default(), &all).await?;
    // The pool has 10,001 addresses: nobody gets one twice, and all are free again.
    world.load.create("next", 0..10_001).await?;
    world.load.wait_for(&names("next", 0..10_001), LIMIT * 3).await?;
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}
