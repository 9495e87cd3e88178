//! What the published guides for MetalLB's users tell them to do, done in their order on the real cluster: OpenShift's
//! chapter on the MetalLB Operator, and two introductions to MetalLB with YAML of their own, which is used as it stands.

mod chapter;
#[path = "../cluster/fixture.rs"]
#[allow(dead_code, reason = "scenes are not needed here")]
mod fixture;
mod introductions;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use metallb_e2e::{
    exec::{on, output, run_on},
    observe::kube,
    power,
};

/// Removes what a test made, also when it fails.
pub(crate) struct Cleanup(pub(crate) &'static [&'static str]);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for line in self.0 {
            let done = kube(&format!("{line} --ignore-not-found"));
            if !std::thread::panicking() {
                done.unwrap();
            }
        }
    }
}

/// Three pods, one a node, that answer with pod, node and the address that they see the client under.
pub(crate) const APPLICATION: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: walk}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: walk}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: lab.local/busybox:1
        imagePullPolicy: Never
        command: [/bin/sh, -c]
        args:
        - |
          busybox mkdir -p /tmp/www/cgi-bin
          printf '#!/bin/sh\\necho; echo $POD $NODE $REMOTE_ADDR\\n' > /tmp/www/cgi-bin/who
          busybox chmod 755 /tmp/www/cgi-bin/who
          exec busybox httpd -f -p 8080 -h /tmp/www
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        - name: POD
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        readinessProbe:
          tcpSocket: {port: 8080}
          periodSeconds: 1
";

/// The same in another namespace, under another name and on another port, with one pod on each of some nodes.
pub(crate) fn application(namespace: &str, name: &str, port: &str, nodes: &[&str]) -> String {
    let (key, values) = ("kubernetes.io/hostname", nodes.join(", "));
    let affinity = format!(
        "      affinity:\n        nodeAffinity:\n          requiredDuringSchedulingIgnoredDuringExecution:\n            \
         nodeSelectorTerms: [{{matchExpressions: [{{key: {key}, operator: In, values: [{values}]}}]}}]\n      containers:\n"
    );
    APPLICATION
        .replace("walk", namespace)
        .replace("web", name)
        .replace("8080", port)
        .replace("replicas: 3", &format!("replicas: {}", nodes.len()))
        .replace("      containers:\n", &affinity)
}

/// What the application says to the client: pod, node, and the client's address as it sees it.
pub(crate) fn who(address: IpAddr) -> Result<[String; 3]> {
    who_to("client", SocketAddr::new(address, 80))
}

/// What it says to a host that asks at an address and a port.
pub(crate) fn who_to(host: &str, at: SocketAddr) -> Result<[String; 3]> {
    let url = format!("http://{at}/cgi-bin/who");
    let answer = output(on(host, "curl").args(["-sS", "-g", "--max-time", "2", &url]))?;
    let words: Vec<_> = answer.split_whitespace().map(str::to_owned).collect();
    words.try_into().map_err(|words| anyhow::anyhow!("{words:?}"))
}

/// Lets the client ask on its own network for addresses of another; no longer with this value.
pub(crate) struct OnLink(&'static str);

impl OnLink {
    pub(crate) fn route(prefix: &'static str) -> Self {
        run_on("client", &format!("ip route replace {prefix} dev eth0")).unwrap();
        Self(prefix)
    }
}

impl Drop for OnLink {
    fn drop(&mut self) {
        let _ = run_on("client", &format!("ip route del {} dev eth0", self.0));
    }
}

/// Connects the node again, also when the test fails.
pub(crate) struct Off(pub(crate) String);

impl Drop for Off {
    fn drop(&mut self) {
        let _ = power::on(&self.0);
    }
}
