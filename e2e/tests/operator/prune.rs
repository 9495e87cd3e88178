//! What is no longer wanted goes.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{get, kube},
};

use crate::fixture::{available, eventually};

fn network_policies(enabled: &str) {
    let patch = format!("{{\"spec\":{{\"networkPolicies\":{enabled}}}}}");
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {patch}")).unwrap();
}

fn there() -> anyhow::Result<bool> {
    let found = get(&["-n", NAMESPACE, "networkpolicies", "-l", "app=metallb"])?;
    Ok(found["items"].as_array().is_some_and(|items| !items.is_empty()))
}

#[test]
fn network_policies_go_when_they_are_turned_off_and_come_back() {
    available();
    assert!(there().unwrap());
    for (setting, want) in [("{\"enabled\":false}", false), ("null", true)] {
        network_policies(setting);
        eventually("the policy to follow the setting", 30, || {
            ensure!(there()? == want, "{setting}: there is one: {}", !want);
            Ok(())
        });
    }
}
