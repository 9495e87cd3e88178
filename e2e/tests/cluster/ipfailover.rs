//! IP failover beside the load balancer, and what the MetalLB resource says.

use anyhow::Context;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{condition, get},
};

/// The condition `kind` of the MetalLB resource: status, reason and message.
pub(crate) fn metallb_condition(kind: &str) -> anyhow::Result<(String, String, String)> {
    condition(&get(&["-n", NAMESPACE, "metallb", "metallb"])?, kind)
        .with_context(|| format!("no condition {kind} yet"))
}

/// IP failover in namespace `ipf`, which claims 172.22.0.150 and 151.
pub(crate) const IP_FAILOVER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: ipf}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ipfailover, namespace: ipf, labels: {ipfailover: hello-openshift}}
spec:
  replicas: 1
  selector: {matchLabels: {ipfailover: hello-openshift}}
  template:
    metadata: {labels: {ipfailover: hello-openshift}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 0
      containers:
      - name: keepalived
        image: lab.local/busybox:1
        imagePullPolicy: Never
        command: [/bin/sh, -c, 'exec busybox sleep 3600']
        env: [{name: OPENSHIFT_HA_VIRTUAL_IPS, value: 172.22.0.150-151}]
";
