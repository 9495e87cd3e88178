//! Another installer's MetalLB is taken over, and handed back, without a Service losing its address. The programs that
//! the other installer runs are stand-ins: they hold the names, labels, side-cars and ports of the real ones.

use anyhow::{Context, ensure};
use metallb_e2e::{
    deploy::{self, NAMESPACE},
    observe::{address, addresses, apply, condition, fetch, get, kube},
    pages,
};
use serde_json::{Value, json};

use crate::fixture::{Scene, available, eventually};

const METALLB: &str = include_str!("../../demo/metallb.yaml");

/// One installer's way of naming things.
struct Installer {
    name: &'static str,
    /// Names of its Deployment and its DaemonSet.
    workloads: [&'static str; 2],
    /// Labels of its objects.
    labels: &'static str,
    /// Label by which its workloads know their pods.
    component: &'static str,
    /// Options with which kubectl writes as this installer does.
    apply: &'static str,
}

const INSTALLERS: [Installer; 5] = [
    Installer {
        name: "MetalLB's manifests, frr mode",
        workloads: ["controller", "speaker"],
        labels: "app: metallb",
        component: "component",
        apply: "apply",
    },
    Installer {
        name: "MetalLB's Helm chart",
        workloads: ["metallb-controller", "metallb-speaker"],
        labels: "app.kubernetes.io/name: metallb, app.kubernetes.io/managed-by: Helm",
        component: "app.kubernetes.io/component",
        apply: "apply --server-side --field-manager=helm",
    },
    Installer {
        name: "the Go operator",
        workloads: ["controller", "speaker"],
        labels: "app: metallb, app.kubernetes.io/managed-by: Helm",
        component: "component",
        apply: "apply --server-side --force-conflicts --field-manager=metallb-operator",
    },
    Installer {
        name: "manifests whose selectors differ, which nobody can change",
        workloads: ["controller", "speaker"],
        labels: "app: metallb",
        component: "tier",
        apply: "apply",
    },
    Installer {
        name: "the Go operator of 4.9",
        workloads: ["controller", "speaker"],
        labels: "app: metallb",
        component: "component",
        apply: "create --field-manager=manager",
    },
];

impl Installer {
    fn install(&self) {
        let Self { workloads: [controller, speaker], labels, component, .. } = self;
        let pod = |which: &str| {
            format!(
                "  selector: {{matchLabels: {{app: metallb, {component}: {which}}}}}\n  template:\n    metadata: {{labels: \
                 {{app: metallb, {component}: {which}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
                 serviceAccountName: {which}\n"
            )
        };
        let container = |name: &str| {
            format!(
                "      - {{name: {name}, image: 'lab.local/busybox:1', imagePullPolicy: Never, command: [busybox, sleep, \
                 '100000']}}\n"
            )
        };
        let objects = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: memberlist, namespace: {NAMESPACE}, labels: {{{labels}}}}}\n\
             stringData: {{secretkey: older}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {controller}, namespace: {NAMESPACE}, labels: \
             {{{labels}}}}}\nspec:\n{}      containers:\n{}---\n\
             apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {speaker}, namespace: {NAMESPACE}, labels: \
             {{{labels}}}}}\nspec:\n{}      hostNetwork: true\n      containers:\n{}{}",
            pod("controller"),
            container("controller"),
            pod("speaker"),
            container("speaker"),
            container("frr"),
        );
        let file = std::env::temp_dir().join(format!("metallb-e2e-older-{}.yaml", std::process::id()));
        std::fs::write(&file, objects).unwrap();
        kube(&format!("{} -f {}", self.apply, file.display())).unwrap();
        std::fs::remove_file(file).unwrap();
        for target in [format!("deployment/{controller}"), format!("daemonset/{speaker}")] {
            kube(&format!("-n {NAMESPACE} rollout status {target} --timeout=60s")).unwrap();
        }
    }

    fn remove(&self) {
        let [controller, speaker] = self.workloads;
        kube(&format!("-n {NAMESPACE} delete deployment/{controller} daemonset/{speaker} secret/memberlist"))
            .unwrap();
    }
}

fn gone() {
    eventually("the workloads to go", 60, || {
        let left = kube(&format!(
            "-n {NAMESPACE} get deployment,daemonset,pod,secret,configmap -l app=metallb -o name"
        ))?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
}

#[test]
#[ignore = "long"]
fn an_older_installation_is_taken_over_and_no_service_loses_its_address() {
    let scene = Scene::new("adopted", "[172.22.0.201/32]");
    scene.service("web", "");
    let held = address(scene.name, "web").unwrap();
    for installer in &INSTALLERS {
        println!("from {}", installer.name);
        kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
        gone();
        installer.install();
        let [controller, speaker] = installer.workloads;

        apply(METALLB).unwrap();
        eventually("the older installation to be named", 10, || {
            let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
            let (_, reason, message) = condition(&object, "Degraded").context("no condition yet")?;
            ensure!(reason == "ForeignLoadBalancer", "{reason}: {message}");
            ensure!(message.contains(&format!("Deployment metallb-system/{controller}")), "{message}");
            Ok(())
        });
        let untouched = get(&["-n", NAMESPACE, "daemonset", speaker]).unwrap();
        assert_eq!(untouched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);

        kube(&format!("-n {NAMESPACE} annotate metallb metallb metallb.io/adopt=true")).unwrap();
        available();
        let taken = get(&["-n", NAMESPACE, "daemonset", "speaker"]).unwrap();
        let containers = taken["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
        assert_eq!(containers.len(), 1, "the side-car is gone: {containers:?}");
        let left = kube(&format!("-n {NAMESPACE} get deployment,daemonset -o name")).unwrap();
        assert!(!left.contains("/metallb-controller") && !left.contains("/metallb-speaker"), "{left}");
        assert!(!left.contains("metallb-pull"), "{left}");
        let secret = get(&["-n", NAMESPACE, "secret", "metallb-memberlist"]).unwrap();
        assert_eq!(secret["data"]["secretkey"], "b2xkZXI=", "the key is kept");
        assert_eq!(secret["metadata"]["ownerReferences"][0]["kind"], "MetalLB");
        assert_eq!(addresses(scene.name, "web").unwrap(), [held]);
        eventually("an answer", 20, || fetch(held).map(drop));
        kube(&format!("-n {NAMESPACE} annotate metallb metallb metallb.io/adopt-")).unwrap();
        kube(&format!("-n {NAMESPACE} delete secret memberlist --ignore-not-found")).unwrap();
    }
}

const ADMISSION: &str = "metallb-webhook-configuration";

/// Has the API server ask about pools whom the Go operator has it ask, whom nobody in this cluster can answer for.
fn ask_elsewhere() {
    let object = get(&["validatingwebhookconfiguration", ADMISSION]).unwrap();
    let edits = (0..object["webhooks"].as_array().unwrap().len()).map(|index| {
        let path = format!("/webhooks/{index}/clientConfig/service/name");
        json!({"op": "replace", "path": path, "value": "metallb-webhook-service"})
    });
    let edits = Value::from_iter(edits).to_string();
    kube(&format!("patch validatingwebhookconfiguration {ADMISSION} --type=json -p {edits}")).unwrap();
    let labels = "{app: metallb, component: webhook-server}";
    apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: metallb-webhook-service, namespace: {NAMESPACE}}}\nspec: \
         {{selector: {labels}, ports: [{{port: 443, targetPort: 9443}}]}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: metallb-operator-webhook-server, namespace: \
         {NAMESPACE}}}\nspec:\n  selector: {{matchLabels: {labels}}}\n  template:\n    metadata: {{labels: {labels}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {{name: server, image: \
         'lab.local/busybox:1', imagePullPolicy: Never, command: [busybox, sleep, '100000']}}\n"
    ))
    .unwrap();
}

#[test]
#[ignore = "long"]
fn what_is_written_is_judged_again_once_the_go_operators_webhooks_are_taken_over() {
    let scene = Scene::new("judged", "[172.22.0.203/32]");
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    gone();
    let installer = &INSTALLERS[2];
    installer.install();
    ask_elsewhere();
    let pool = |range: &str| {
        format!(
            "{{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {{name: judged-too, namespace: {NAMESPACE}}}, \
             spec: {{addresses: ['{range}']}}}}"
        )
    };
    let refused = format!("{:#}", apply(&pool("198.51.100.9-198.51.100.1")).unwrap_err());
    assert!(refused.contains("metallb-webhook-service"), "nobody answers: {refused}");
    apply(METALLB).unwrap();
    kube(&format!("-n {NAMESPACE} annotate metallb metallb metallb.io/adopt=true")).unwrap();
    available();
    let object = get(&["validatingwebhookconfiguration", ADMISSION]).unwrap();
    for webhook in object["webhooks"].as_array().unwrap() {
        assert_eq!(
            webhook["clientConfig"]["service"]["name"], "metallb-operator-webhook-service",
            "{webhook}"
        );
    }
    let refused = format!("{:#}", apply(&pool("198.51.100.9-198.51.100.1")).unwrap_err());
    assert!(refused.contains("spec.addresses[0]"), "judged by this operator: {refused}");
    apply(&pool("198.51.100.0/28")).unwrap();
    kube(&format!("-n {NAMESPACE} delete ipaddresspool judged-too")).unwrap();
    eventually("the older webhooks to go", 20, || {
        let left = kube(&format!(
            "-n {NAMESPACE} get deployment/metallb-operator-webhook-server service/metallb-webhook-service \
             --ignore-not-found -o name"
        ))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} annotate metallb metallb metallb.io/adopt-")).unwrap();
    kube(&format!("-n {NAMESPACE} delete secret memberlist --ignore-not-found")).unwrap();
    deploy::deploy().unwrap();
    drop(scene);
}

/// Runs the commands of the section "Back" of docs/moving.md; those about the MetalLB resource are for an installer that
/// knows none.
fn go_back(knows_the_resource: bool) {
    pages::run_block("moving.md", "--for=delete").unwrap();
    pages::run_block("moving.md", "delete addresspools --all").unwrap();
    if !knows_the_resource {
        pages::run_block("moving.md", "--cascade=orphan").unwrap();
    }
    pages::run_block("moving.md", "delete deployment/controller").unwrap();
}

#[test]
#[ignore = "long"]
fn the_way_back_that_the_page_tells_costs_no_address() {
    for installer in &INSTALLERS[..3] {
        println!("back to {}", installer.name);
        let scene = Scene::new("back", "[172.22.0.202/32]");
        scene.service("web", "");
        let held = address(scene.name, "web").unwrap();
        let has_an_operator = installer.name == "the Go operator";
        go_back(has_an_operator);
        installer.install();
        assert_eq!(addresses(scene.name, "web").unwrap(), [held]);
        assert_eq!(kube(&format!("-n {NAMESPACE} get addresspools -o name")).unwrap(), "");
        let left = kube(&format!("-n {NAMESPACE} get ipaddresspools,l2advertisements -o name")).unwrap();
        assert!(left.contains("ipaddresspool.metallb.io/back"), "the pool stays: {left}");
        assert!(left.contains("l2advertisement.metallb.io/back"), "and so does how it is announced: {left}");
        let resources = kube(&format!("-n {NAMESPACE} get metallbs -o name")).unwrap();
        assert_eq!(!resources.is_empty(), has_an_operator, "{resources}");
        let secret = get(&["-n", NAMESPACE, "secret", "metallb-memberlist"]).unwrap();
        assert!(secret["data"]["secretkey"].is_string(), "what was made of the resource stays");

        installer.remove();
        deploy::deploy().unwrap();
        available();
        assert_eq!(addresses(scene.name, "web").unwrap(), [held]);
        eventually("an answer", 20, || fetch(held).map(drop));
        // It has no owner any more that it would go with.
        kube(&format!("-n {NAMESPACE} delete l2advertisement back")).unwrap();
    }
}
