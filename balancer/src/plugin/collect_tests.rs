//! What is collected, and what is left out.

use super::*;

#[test]
fn what_must_not_be_shown_is_concealed_at_any_depth() {
    let mut object = json!({
        "metadata": {
            "managedFields": [{ "manager": "kubectl" }],
            "annotations": { LAST_APPLIED: "{\"spec\":{\"password\":\"hunter2\"}}", "kept": "yes" },
        },
        "spec": {
            "password": "hunter2",
            "passwordSecret": { "name": "bgp-password" },
            "containers": [{ "env": [
                { "name": "API_TOKEN", "value": "hunter2" },
                { "name": "METALLB_ML_SECRET_NAME", "value": "metallb-memberlist" },
                { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "a", "key": "b" } } },
            ] }],
        },
    });
    conceal(&mut object);
    assert_eq!(
        object,
        json!({
            "metadata": { "annotations": { "kept": "yes" } },
            "spec": {
                "password": CONCEALED,
                "passwordSecret": { "name": "bgp-password" },
                "containers": [{ "env": [
                    { "name": "API_TOKEN", "value": CONCEALED },
                    { "name": "METALLB_ML_SECRET_NAME", "value": "metallb-memberlist" },
                    { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "a", "key": "b" } } },
                ] }],
            },
        })
    );
}

#[test]
fn files_in_config_maps_are_shown_without_what_follows_the_name_of_a_secret() {
    let flow = "peers: [{my-asn: 64512, password: hunter2, peer-address: 192.0.2.1}]";
    let block = "peers:\n- password: \"hunt,er2\"\n  my-asn: 64512\n- my-asn: 64513\n  password: |\n    hun\n\n    \
                 ter2\n  peer-address: 192.0.2.1\n";
    let router = "router bgp 64512\n  neighbor 192.0.2.1 password hun ter2\n  neighbor 192.0.2.1 passive\n";
    let other = "passwordSecret: {name: bgp}\nno service password-encryption\n";
    let mut object = json!({
        "kind": "ConfigMap",
        "data": { "flow": flow, "block": block, "router": router, "other": other, "json": "{\"Password\":\"hunter2\"}" },
        "binaryData": { "file": "aHVudGVyMg==" },
    });
    conceal(&mut object);
    assert_eq!(
        object,
        json!({
            "kind": "ConfigMap",
            "data": {
                "flow": "peers: [{my-asn: 64512, password (concealed)",
                "block": "peers:\n- password (concealed)\n  my-asn: 64512\n- my-asn: 64513\n  password (concealed)\n\n  \
                          peer-address: 192.0.2.1\n",
                "router": "router bgp 64512\n  neighbor 192.0.2.1 password (concealed)\n  neighbor 192.0.2.1 passive\n",
                "other": other,
                "json": "{\"Password (concealed)",
            },
            "binaryData": { "file": CONCEALED },
        })
    );
    // What is said in one line elsewhere may speak of passwords; a file in an annotation is a file.
    let mut object =
        json!({ "message": "spec.password is set twice", "annotation": "password: hunter2\nkept: yes" });
    conceal(&mut object);
    assert_eq!(
        object,
        json!({ "message": "spec.password is set twice", "annotation": "password (concealed)\nkept: yes" })
    );
}

#[test]
fn of_the_cluster_only_what_concerns_the_load_balancer_is_kept() {
    let named = |kind: &str, name: &str| json!({ "kind": kind, "metadata": { "name": name }, "spec": {} });
    let service = |kind: &str| json!({ "kind": "Service", "spec": { "type": kind } });
    let ours = json!({
        "kind": "CustomResourceDefinition", "metadata": { "name": "metallbs.metallb.io" },
        "spec": { "versions": [{ "name": "v1beta1", "schema": { "a": "b" } }] },
    });
    let kept = concerning(
        vec![
            service("ClusterIP"),
            service("LoadBalancer"),
            named("CustomResourceDefinition", "others.example"),
            ours,
            named("ValidatingWebhookConfiguration", "other"),
            named("ClusterRole", "view"),
            named("ClusterRoleBinding", "metallb-system:speaker"),
            named("Namespace", "default"),
            named("Namespace", "ours"),
            named("Node", "node1"),
        ],
        "ours",
    );
    assert_eq!(
        kept,
        [
            service("LoadBalancer"),
            json!({
                "kind": "CustomResourceDefinition", "metadata": { "name": "metallbs.metallb.io" },
                "spec": { "versions": [{ "name": "v1beta1" }] },
            }),
            named("ClusterRoleBinding", "metallb-system:speaker"),
            named("Namespace", "ours"),
            named("Node", "node1"),
        ]
    );
}
