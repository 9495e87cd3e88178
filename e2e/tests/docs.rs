//! Every block of commands in README.md, CONTRIBUTING.md and docs/ is run on the real cluster, or says why it is not.
//!
//! A block of `sh` is run on host cp as a script, in the folder of the repository; of `console`, the lines behind `$ `
//! are. A block of `yaml` with objects in it is put before the API server as a dry run. A comment on the line before a
//! block names what stands in for that: `<!-- not run: REASON -->`, or `<!-- run by: PATH, PATH -->` for tests that do.

#[path = "cluster/fixture.rs"]
#[allow(dead_code, reason = "scenes are not needed here")]
mod fixture;

use std::{fs, path::PathBuf};

use metallb_e2e::{
    cluster::checkout,
    observe::{address, apply, kube},
    pages::{blocks, run},
};

/// What the commands of a page expect to be there, and what undoes them.
fn scene(page: &str) -> &'static str {
    match page {
        "CONTRIBUTING.md" => {
            "cp target/images/operator.tar image.tar\ntrap 'rm -f image.tar; make -s power-on NODE=node2' EXIT\n"
        }
        "install.md" => {
            "trap 'kubectl -n metallb-system patch serviceaccount manager-account -p {\\\"imagePullSecrets\\\":null}' EXIT\n"
        }
        _ => "",
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> =
        fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|page| checkout().join(page)));
    pages.sort();
    pages
}

#[test]
fn every_block_of_commands_works_or_says_why_it_is_not_run() {
    fixture::available();
    apply(include_str!("../demo/pools.yaml")).unwrap();
    apply(include_str!("../demo/web.yaml")).unwrap();
    // The pages speak of `default/web` too.
    apply(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [172.22.0.100], conditions: {ready: true}}]
",
    )
    .unwrap();
    kube("-n demo rollout status deployment/web --timeout=60s").unwrap();
    address("demo", "web").unwrap();
    let home = tempfile::tempdir().unwrap();
    let (mut ran, mut wrong) = (0, Vec::new());
    for page in pages() {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            let Some(script) = block.script() else { continue };
            match block.is_excused(&name) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => wrong.push(format!("{name}:{}: {error:#}", block.line)),
            }
            ran += 1;
            if let Err(error) = run(&format!("{}{script}", scene(&name)), home.path()) {
                wrong.push(format!("{name}:{}: {error:#}", block.line));
            }
        }
    }
    kube("delete namespace demo").unwrap();
    kube("-n default delete service,endpointslice web --ignore-not-found").unwrap();
    kube("-n metallb-system delete addresspool doc-example doc-example-ipv6").unwrap();
    println!("{ran} blocks were run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(ran >= 10, "only {ran} blocks were found");
}
