//! What it may not read is not empty, what is not its own is left alone, and nothing at all is no fault.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use metallb_e2e::plane::{free_port, proxy::Faults, subject::Subject};
use serde_json::{Value, json};

use crate::fixture::{LIMIT, World, names, program, surprises, until};

/// Longer than a pool may be away.
const AWAY: Duration = Duration::from_secs(15);

/// The rights of the controller in its namespace.
fn role(world: &World) -> Result<Value> {
    let role = world.plane.kubectl(&["-n", "metallb-system", "get", "role", "controller", "-o", "json"])?;
    let mut role: Value = serde_json::from_str(&role)?;
    role["metadata"]["resourceVersion"].take();
    Ok(role)
}

fn replace(world: &World, role: &Value) -> Result<()> {
    let path = world.plane.path("role.json");
    std::fs::write(&path, role.to_string())?;
    world.plane.kubectl(&["replace", "-f", &path.display().to_string()]).map(drop)
}

/// The same without the right to read pools.
fn without_pools(role: &Value) -> Result<Value> {
    let mut role = role.clone();
    for rule in role["rules"].as_array_mut().context("rules")? {
        let resources = rule["resources"].as_array_mut().context("resources")?;
        resources.retain(|resource| resource != "ipaddresspools");
    }
    let rules = role["rules"].as_array_mut().context("rules")?;
    rules.retain(|rule| rule["resources"].as_array().is_some_and(|resources| !resources.is_empty()));
    Ok(role)
}

/// How often a watch of pools could not be begun.
fn interruptions(world: &World) -> Result<usize> {
    let log = std::fs::read_to_string(world.log())?;
    Ok(log
        .lines()
        .filter(|line| line.contains("watch interrupted") && line.contains("IPAddressPool"))
        .count())
}

async fn interrupted(world: &World, times: usize) -> Result<()> {
    let before = interruptions(world)?;
    until(async || interruptions(world), |count| *count >= before + times).await.map(drop)
}

/// What Services show and say.
async fn told(world: &World) -> Result<BTreeMap<String, (Vec<String>, Option<(String, String)>)>> {
    let mut told = BTreeMap::new();
    for (service, addresses) in world.shown().await? {
        let condition = world.condition(&service, "metallb.io/AddressAssigned").await?;
        told.insert(service, (addresses, condition));
    }
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_may_not_be_read_are_no_empty_configuration() -> Result<()> {
    let world = World::new().await?;
    let (proxy, config) = world.plane.proxy().await?;
    world.load.create("held", 0..5).await?;
    for number in 0..5 {
        world.hold(&format!("held-{number}"), &format!("10.99.7.{number}")).await?;
    }
    let (before, full) = (told(&world).await?, role(&world)?);
    replace(&world, &without_pools(&full)?)?;
    let controller = world.controller_by(&config, "controller")?;
    interrupted(&world, 3).await?;
    assert_eq!(told(&world).await?, before, "nothing is known, so nothing is said");

    replace(&world, &full)?;
    world.load.create("new", 0..1).await?;
    world.load.wait_for(&names("new", 0..1), LIMIT).await?;
    assert_eq!(surprises(&world.load), Vec::<String>::new());

    // The right is lost while it runs, and with it the sight of a pool that is deleted for a long time.
    replace(&world, &without_pools(&full)?)?;
    proxy.expire_watches();
    interrupted(&world, 2).await?;
    world.plane.kubectl(&["-n", "metallb-system", "delete", "ipaddresspool", "main"])?;
    let since = Instant::now();
    let look = || async { Ok((since.elapsed(), surprises(&world.load))) };
    let (_, surprises_then) = until(look, |(since, _)| *since > AWAY).await?;
    assert_eq!(surprises_then, Vec::<String>::new());
    world.load.pool("main", &json!({ "addresses": ["10.99.0.0/16"] })).await?;
    replace(&world, &full)?;
    world.load.create("late", 0..1).await?;
    world.load.wait_for(&names("late", 0..1), LIMIT).await?;
    assert_eq!(surprises(&world.load), Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_ends_before_its_last_page_is_no_configuration() -> Result<()> {
    let world = World::new().await?;
    let (proxy, config) = world.plane.proxy().await?;
    // More than a page holds; the pool of what is held comes last.
    let pool = |number: usize| {
        let addresses = format!("10.98.{}.{}/32", number / 256, number % 256);
        (format!("a-{number:03}"), json!({ "addresses": [addresses], "autoAssign": false }))
    };
    world.load.pools((0..600).map(pool).collect()).await?;
    world.load.create("held", 0..2).await?;
    for number in 0..2 {
        world.hold(&format!("held-{number}"), &format!("10.99.7.{number}")).await?;
    }
    let before = told(&world).await?;
    proxy.break_with(Faults { no_further_page: true, ..Faults::default() });
    let controller = world.controller_by(&config, "controller")?;
    world.load.create("new", 0..1).await?;
    interrupted(&world, 3).await?;
    assert_eq!(told(&world).await?, before);
    assert_eq!(world.condition("new-0", "metallb.io/AddressAssigned").await?, None);

    proxy.break_with(Faults::default());
    world.load.wait_for(&names("new", 0..1), LIMIT).await?;
    // While it runs: a list that is cut short takes nothing away either.
    proxy.break_with(Faults { no_further_page: true, ..Faults::default() });
    proxy.expire_watches();
    interrupted(&world, 2).await?;
    let since = Instant::now();
    let look = || async { Ok((since.elapsed(), surprises(&world.load))) };
    let (_, surprises_then) = until(look, |(since, _)| *since > AWAY).await?;
    assert_eq!(surprises_then, Vec::<String>::new());
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_its_class_are_served_and_no_others() -> Result<()> {
    let world = World::new().await?;
    let probes = free_port()?;
    let command =
        format!("{} --port=0 --health-probe-port={probes} --lb-class=example.com/ours", program()?.display());
    let service = |name: &str, class: &Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "type": "LoadBalancer", "loadBalancerClass": class, "ports": [{ "port": 80 }] },
        })
    };
    world.apply(&service("other", &json!("example.com/other")))?;
    world.apply(&service("none", &Value::Null))?;
    // A class cannot be taken away: what is held by another class is that one's for ever.
    world.hold("other", "10.99.9.9").await?;
    let controller = Subject::start(&command, &world.plane.controller_config(), &world.log())?;
    world.apply(&service("ours", &json!("example.com/ours")))?;
    world.load.wait_for(&["ours".to_owned()].into(), LIMIT).await?;
    let want: BTreeMap<String, Vec<String>> = [
        ("other".to_owned(), vec!["10.99.9.9".to_owned()]),
        ("ours".to_owned(), vec!["10.99.0.0".to_owned()]),
    ]
    .into();
    assert_eq!(world.shown().await?, want);
    for name in ["other", "none"] {
        assert_eq!(world.condition(name, "metallb.io/AddressAssigned").await?, None, "{name}");
    }
    controller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pool_it_is_ready_and_idle_and_a_service_says_why_it_waits() -> Result<()> {
    let world = World::new().await?;
    world.plane.kubectl(&["-n", "metallb-system", "delete", "ipaddresspool", "main"])?;
    let probes = free_port()?;
    let command = format!("{} --port=0 --health-probe-port={probes}", program()?.display());
    let controller = Subject::start(&command, &world.plane.controller_config(), &world.log())?;
    let probe = |path: &str| -> Result<String> {
        let url = format!("http://127.0.0.1:{probes}{path}");
        let output =
            Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    until(async || probe("/readyz"), |code| code == "200").await?;
    assert_eq!(probe("/healthz")?, "200");
    world.load.create("web", 0..1).await?;
    assert_eq!(world.reason("web-0", "NoAvailableIPs").await?, "no available IPs: there is no pool");
    let writes = world.plane.writes_at_rest(2).await?;
    assert_eq!(writes.into_keys().collect::<Vec<_>>(), ["update leases"]);
    controller.stop().await
}
