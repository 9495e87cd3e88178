//! BGPPeers and what goes with them, removed at the end of a test.

use anyhow::{Context, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{on, output},
    observe::{apply, get, kube},
};
use serde_json::{Value, json};

use crate::fixture::{Scene, eventually};

/// AS number of the nodes, and of the router.
pub(crate) const ASN: u32 = 64512;
pub(crate) const ROUTER_ASN: u32 = 64513;

/// Objects of MetalLB's namespace that end with this value.
pub(crate) struct Objects(Vec<String>);

impl Objects {
    /// Applies objects of the given kinds, names and specs (YAML in flow style).
    pub(crate) fn apply(objects: &[(&str, &str, &str)]) -> Self {
        let mut made = Self(Vec::new());
        for (kind, name, spec) in objects {
            made.0.push(format!("{kind}/{name}"));
            edit(kind, name, spec);
        }
        made
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        for object in &self.0 {
            let deleted = kube(&format!("-n {NAMESPACE} delete {object} --ignore-not-found"));
            if !std::thread::panicking() {
                deleted.unwrap();
            }
        }
    }
}

/// Applies one object.
pub(crate) fn edit(kind: &str, name: &str, spec: &str) {
    let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
    apply(&format!(
        "apiVersion: metallb.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {spec}\n"
    ))
    .unwrap();
}

/// A Secret with the password of a peer.
pub(crate) fn password(name: &str, password: &str) {
    apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         type: kubernetes.io/basic-auth\nstringData: {{password: {password}}}\n"
    ))
    .unwrap();
}

/// Checks that passwords stand in no log of the product, in no Event, and in nothing that an object says of itself.
pub(crate) fn nobody_tells(passwords: &[&str]) {
    let mut told = Vec::new();
    let mut check = |what: &str, text: &str| {
        told.extend(passwords.iter().filter(|password| text.contains(**password)).map(|_| what.to_owned()));
    };
    let pods = kube(&format!("-n {NAMESPACE} get pods -o name")).unwrap();
    for program in ["controller", "speaker", "operator"] {
        assert!(pods.contains(program), "the {program} is none of {pods}");
    }
    for pod in pods.lines() {
        let log = kube(&format!("-n {NAMESPACE} logs {pod} --all-containers --tail=-1")).unwrap();
        assert!(!log.is_empty(), "{pod} logs nothing");
        check(pod, &log);
    }
    check("an Event", &kube("get events -A -o json").unwrap());
    for group in ["metallb.io", "frrk8s.metallb.io"] {
        let kinds = kube(&format!("api-resources --api-group={group} --verbs=list -o name")).unwrap();
        for kind in kinds.lines() {
            let list = get(&["-A", kind]).unwrap();
            for object in list["items"].as_array().into_iter().flatten() {
                // What its author wrote is no business of this.
                check(&format!("{kind} {}", object["metadata"]["name"]), &object["status"].to_string());
            }
        }
    }
    assert_eq!(told, Vec::<String>::new(), "passwords were told");
}

/// A peer of every node with the router at `address`; `more` is more YAML of its spec.
pub(crate) fn peer(address: &str, more: &str) -> String {
    format!("{{myASN: {ASN}, peerASN: {ROUTER_ASN}, peerAddress: '{address}'{more}}}")
}

/// A scene whose pool is announced by BGP; `more` is more YAML of the advertisement's spec.
pub(crate) fn scene(name: &'static str, addresses: &str, more: &str) -> Scene {
    Scene::of(
        name,
        &format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{addresses: {addresses}, autoAssign: false}}\n---\n\
             apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{ipAddressPools: [{name}]{more}}}\n"
        ),
    )
}

/// FRR's configuration for sessions with every node, in AS [`ROUTER_ASN`]; `more` are more lines of its BGP.
pub(crate) fn frr(more: &str) -> String {
    format!(
        "router bgp {ROUTER_ASN}\n bgp router-id 172.22.0.1\n no bgp ebgp-requires-policy\n neighbor nodes peer-group\n \
         neighbor nodes remote-as {ASN}\n bgp listen range 172.22.0.0/24 peer-group nodes\n \
         bgp listen range fd00:22::/64 peer-group nodes\n{more}\n address-family ipv4 unicast\n  \
         neighbor nodes activate\n  maximum-paths 8\n exit-address-family\n address-family ipv6 unicast\n  \
         neighbor nodes activate\n  maximum-paths 8\n exit-address-family\n"
    )
}

/// Status of the BGPSessionState of a node and a router.
pub(crate) fn session(node: &str, router: &str) -> anyhow::Result<Value> {
    let list = get(&["-n", NAMESPACE, "bgpsessionstates.frrk8s.metallb.io"])?;
    let states = list["items"].as_array().into_iter().flatten().map(|item| item["status"].clone());
    let mut its = states.filter(|status| status["node"] == node && status["peer"] == router);
    its.next().with_context(|| format!("no BGPSessionState of {node} and {router} in {list}"))
}

/// Waits until the session of every node with the router has this state.
pub(crate) fn until_sessions(router: &str, state: &str) {
    eventually(&format!("{state} sessions with {router}"), 40, || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, router)?;
            ensure!(status["bgpStatus"] == state, "{status}");
        }
        Ok(())
    });
}

/// The metrics of the speaker at `node`, an address, as they are shown to those who may read them.
pub(crate) fn metrics(node: &str) -> anyhow::Result<String> {
    let token = kube(&format!("-n {NAMESPACE} create token metrics-reader"))?;
    let bearer = format!("Authorization: Bearer {}", token.trim());
    output(on("cp", "curl").args(["-sSfk", "-H", &bearer, &format!("https://{node}:9120/metrics")]))
}

/// What FRR holds of one path: AS path, MED, LOCAL_PREF, communities, large communities.
pub(crate) fn attributes(path: &Value) -> Value {
    json!({
        "path": path["aspath"]["string"], "med": path["metric"], "localPref": path["locPrf"],
        "communities": path["community"]["string"], "large": path["largeCommunity"]["string"],
    })
}
