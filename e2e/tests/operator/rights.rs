//! What the programs may do, beside what they did while the other tests ran: they run before this one.

use std::collections::BTreeSet;

use anyhow::ensure;
use metallb_e2e::{
    audit::{self, Call},
    deploy::NAMESPACE,
    observe::{get, kube},
};
use serde_json::Value;

use crate::fixture::{Scene, available, eventually};

/// Rights of a program, as `verb resource`, that no test here leads to the use of as widely as they are granted, and why
/// they are.
type Unused = &'static [(&'static str, &'static str)];

const OPERATOR: Unused = &[
    ("update metallbs/finalizers", "OpenShift asks for it where an owner reference blocks deletion"),
    ("update addresspools/finalizers", "the same"),
    ("patch metallbs/status", "a resource in another namespace is told that it is in the wrong one"),
    ("patch addresspools", "one in another namespace is stored in an older version"),
    ("patch bgppeers", "the same"),
    ("create bgppeers", "an older configuration has peers"),
    ("create bfdprofiles", "it has profiles"),
    ("create communities", "it has names of communities"),
    ("create metallbs", "the environment asks for the resource: CREATE_METALLB"),
    ("create tokenreviews", "who reads the metrics shows a token"),
    ("delete secrets", "OpenShift asks for it where an owner reference is set"),
    ("delete ipaddresspools", "the same"),
    ("get securitycontextconstraints", "OpenShift has them"),
    ("patch secrets", "a key that somebody replaced is kept beside the new one"),
    ("delete validatingwebhookconfigurations", "the Go operator left one for its frr-k8s"),
    ("watch frrconfigurations", "another program's kind, which this cluster does not have"),
    ("delete configmaps", "it is no longer part of an installation"),
    ("delete services", "the same"),
    ("delete deployments", "the same"),
    ("delete daemonsets", "the same"),
];

const CONTROLLER: Unused = &[
    ("get services", "a write met that of another, and the Service is read anew"),
    ("patch bgpadvertisements/status", "one is there, and whether it is used is written"),
    ("patch bgppeers/status", "the same"),
    ("patch bfdprofiles/status", "the same"),
    ("patch communities/status", "the same"),
    ("patch configurationstates", "a former installation left its own"),
    ("delete configurationstates", "OpenShift asks for it where an owner reference is set"),
    ("delete leases", "the same"),
    ("create tokenreviews", "who reads the metrics shows a token"),
    ("create subjectaccessreviews", "the same"),
];

const SPEAKER: Unused = &[
    ("patch services", "a node keeps an address: failback: Never"),
    ("patch services/status", "another host has the address"),
    ("patch servicel2statuses", "a speaker before this one on its node wrote it"),
    ("create servicebgpstatuses", "a Service is announced by BGP"),
    ("patch servicebgpstatuses", "the same, by a speaker before this one on its node"),
    ("delete servicebgpstatuses", "it is no longer"),
    ("patch servicebgpstatuses/status", "the same"),
    ("create bgpsessionstates", "there is a router"),
    ("patch bgpsessionstates", "the same, of a speaker before this one on its node"),
    ("delete bgpsessionstates", "there is none any more"),
    ("patch bgpsessionstates/status", "the same"),
    ("patch configurationstates", "a former installation left its own"),
    ("delete configurationstates", "OpenShift asks for it where an owner reference is set"),
    ("get daemonsets", "it is asked to end"),
    ("get leases", "one of two nodes is alone: fencing: Strict"),
    ("create leases", "the same"),
    ("update leases", "the same"),
    ("patch leases", "addresses are spread evenly: electionPolicy: Even"),
    ("delete leases", "they are no longer"),
    ("list secrets", "a router has a password"),
    ("watch secrets", "the same"),
    ("create tokenreviews", "who reads the metrics shows a token"),
    ("create subjectaccessreviews", "the same"),
];

/// The rules of a ClusterRole, for the whole cluster, and of a Role.
fn rules(cluster_role: &str, role: &str) -> Vec<(bool, Value)> {
    let mut rules = Vec::new();
    for (kind, arguments) in
        [(true, vec!["clusterrole", cluster_role]), (false, vec!["-n", "metallb-system", "role", role])]
    {
        let role = get(&arguments).unwrap();
        rules.extend(role["rules"].as_array().unwrap().iter().map(|rule| (kind, rule.clone())));
    }
    rules
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Asserts that `account` used what `rules` grant but for what is `unused`.
fn assert_fits(account: &str, rules: Vec<(bool, Value)>, unused: Unused) {
    let mut used = audit::calls_since(audit::start(), account).unwrap();
    // Who applies an object that is not there needs the right to create it, too.
    let created = |call: &Call| {
        Some(Call { right: format!("create {}", call.right.strip_prefix("patch ")?), ..call.clone() })
    };
    used.extend(used.iter().filter_map(created).collect::<Vec<_>>());
    // With whether it is for the whole cluster, and its group.
    let mut granted = BTreeSet::new();
    for (everywhere, rule) in rules {
        for (field, values) in
            [("apiGroups", &rule["apiGroups"]), ("resources", &rule["resources"]), ("verbs", &rule["verbs"])]
        {
            assert!(!texts(values).contains(&"*"), "{account}: a wildcard in {field}: {rule}");
        }
        assert!(
            !(everywhere && texts(&rule["resources"]).contains(&"secrets")),
            "{account}: secrets of the whole cluster: {rule}"
        );
        let optional = ["monitoring.coreos.com", "cilium.io", "crd.projectcalico.org", "apps.openshift.io"];
        if texts(&rule["apiGroups"]).iter().any(|group| optional.contains(group)) {
            // Of kinds that this cluster does not have, nothing but a watch is tried.
            continue;
        }
        for resource in texts(&rule["resources"]) {
            let rights = texts(&rule["verbs"]).into_iter().map(|verb| format!("{verb} {resource}"));
            let groups = texts(&rule["apiGroups"]);
            granted.extend(rights.flat_map(|right| {
                groups.iter().map(move |group| (right.clone(), everywhere, (*group).to_owned()))
            }));
        }
    }
    // A right for the whole cluster that is used in one namespace alone is too wide.
    let uses = |(right, everywhere, group): &(String, bool, String), call: &Call| {
        (&call.right, &call.group) == (right, group) && (call.namespace == NAMESPACE) != *everywhere
    };
    let excused: BTreeSet<&str> = unused.iter().map(|(right, _)| *right).collect();
    let stale: Vec<_> =
        excused.iter().filter(|right| granted.iter().all(|granted| granted.0 != **right)).collect();
    assert!(stale.is_empty(), "{account}: excused and not granted: {stale:?}");
    let unused: Vec<_> = granted
        .iter()
        .filter(|granted| {
            !excused.contains(granted.0.as_str()) && !used.iter().any(|call| uses(granted, call))
        })
        .collect();
    assert!(unused.is_empty(), "{account}: granted and not used by any test: {unused:?}\nused: {used:?}");
}

#[test]
fn the_operator_may_do_what_it_does_and_little_more() {
    available();
    let role = "metallb-manager-role";
    assert_fits("manager-account", rules(role, role), OPERATOR);
    let refused = audit::refused_since(audit::start()).unwrap();
    let refused: Vec<_> = refused.into_iter().filter(|call| call.starts_with("manager-account")).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn controller_and_speaker_may_do_what_they_do_and_little_more() {
    let scene = Scene::new("rights", "[172.22.0.236/32]");
    scene.service("web", "");
    let told =
        || kube("-n metallb-system get servicel2status -l metallb.io/service-namespace=rights -o name");
    eventually("the Service to be announced", 30, || {
        let told = told()?;
        ensure!(!told.is_empty(), "nobody announces it");
        Ok(())
    });
    kube("-n rights delete service web").unwrap();
    eventually("the Service to be announced no more", 30, || {
        let told = told()?;
        ensure!(told.is_empty(), "{told}");
        Ok(())
    });
    for (account, unused) in [("controller", CONTROLLER), ("speaker", SPEAKER)] {
        assert_fits(account, rules(&format!("metallb-system:{account}"), account), unused);
    }
}

#[test]
fn operator_and_controller_fit_the_restricted_profile_and_the_speaker_has_one_capability() {
    available();
    let pods =
        |labels: &str| get(&["-n", "metallb-system", "pods", "-l", labels]).unwrap()["items"][0].clone();
    kube("create namespace restricted").unwrap();
    eventually("its account", 10, || kube("-n restricted get serviceaccount default").map(drop));
    kube("label namespace restricted pod-security.kubernetes.io/enforce=restricted").unwrap();
    kube("label namespace restricted pod-security.kubernetes.io/enforce-version=latest").unwrap();
    for labels in ["control-plane=controller-manager", "app=metallb,component=controller"] {
        let mut spec = pods(labels)["spec"].clone();
        let fields = spec.as_object_mut().unwrap();
        // Its token is of an account that is not there.
        for field in ["serviceAccount", "serviceAccountName", "nodeName"] {
            fields.remove(field);
        }
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "restricted"},
                                     "spec": spec});
        let (accepted, told) = super::pools::tried("create", &pod.to_string());
        assert!(accepted, "{labels}: {told}");
    }
    kube("delete namespace restricted --wait=false").unwrap();
    let context = pods("app=metallb,component=speaker")["spec"]["containers"][0]["securityContext"].clone();
    assert_eq!(context["capabilities"], serde_json::json!({"add": ["NET_RAW"], "drop": ["ALL"]}));
    assert_eq!(
        (&context["readOnlyRootFilesystem"], &context["allowPrivilegeEscalation"]),
        (&true.into(), &false.into())
    );
}
