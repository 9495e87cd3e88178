//! The certificate of the admission webhooks by cert-manager.

use anyhow::{Context, ensure};
use metallb_e2e::{
    cert_manager::CertManager,
    cluster::{checkout, kubectl},
    deploy::NAMESPACE,
    exec::output,
    observe::get,
};

use crate::{eventually, metallb, remove_everything, reversed_is_refused, serves};

#[test]
fn cert_manager_makes_the_certificate_of_the_webhooks() {
    remove_everything();
    let cert_manager = CertManager::start().unwrap();
    output(kubectl().args(["apply", "-k"]).arg(checkout().join("config/certmanager"))).unwrap();
    eventually("the API server to trust cert-manager's certificate", 60, || {
        let secret = get(&["-n", NAMESPACE, "secret/metallb-operator-webhook-cert-manager"])
            .with_context(|| cert_manager.log())?;
        let authority = secret["data"]["ca.crt"].as_str().context("no authority")?.to_owned();
        for name in ["metallb-operator-webhook-configuration", "metallb-webhook-configuration"] {
            let configuration = get(&["validatingwebhookconfiguration", name])?;
            let webhooks = configuration["webhooks"].as_array().context("no webhooks")?;
            let trusts =
                webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == authority.as_str());
            ensure!(trusts && !webhooks.is_empty(), "{name}: {}", cert_manager.log());
        }
        Ok(())
    });
    serves(metallb);
    reversed_is_refused();
}
