//! etcd, API server, controller manager and scheduler on host cp.

use std::{fs, time::Duration};

use anyhow::Result;

use crate::{
    cluster::kubectl,
    exec::{on, output, wait_until},
    layout::{audit_log, bin, cp, state},
    processes::spawn,
};

/// Requests are logged without their bodies: enough to count writes by user and to check RBAC.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// The parts, in the order in which they start.
pub(crate) const PARTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

pub(crate) fn start() -> Result<()> {
    fs::write(state("audit-policy.yaml"), AUDIT_POLICY)?;
    let pki = state("pki");
    let pki = pki.display();
    let etcd = format!(
        "--data-dir {} --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
         --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn",
        state("etcd").display()
    );
    start_part("etcd", &etcd)?;
    let api_server = format!(
        "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 --advertise-address={address} \
         --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key --client-ca-file={pki}/ca.crt \
         --service-account-key-file={pki}/sa.pub --service-account-signing-key-file={pki}/sa.key \
         --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC \
         --service-cluster-ip-range=10.96.0.0/16,fd00:96::/112 --kubelet-client-certificate={pki}/admin.crt \
         --kubelet-client-key={pki}/admin.key --kubelet-preferred-address-types=InternalIP \
         --enable-aggregator-routing=true --allow-privileged \
         --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement \
         --audit-policy-file={policy} --audit-log-path={log} --audit-log-maxsize=10000",
        address = cp().v4(),
        policy = state("audit-policy.yaml").display(),
        log = audit_log().display(),
    );
    start_part("kube-apiserver", &api_server)?;
    wait_until("the API server", Duration::from_secs(60), || {
        output(kubectl().args(["get", "--raw", "/readyz"])).map(|_| None)
    })?;
    // At /readyz the default roles may still be missing; the scheduler exits for want of them.
    wait_until("the default roles", Duration::from_secs(30), || {
        output(kubectl().args(["get", "clusterrole", "system:kube-scheduler"])).map(|_| None)
    })?;
    let manager = format!(
        "--kubeconfig={pki}/kcm.conf --authentication-kubeconfig={pki}/kcm.conf --authorization-kubeconfig={pki}/kcm.conf \
         --root-ca-file={pki}/ca.crt --service-account-private-key-file={pki}/sa.key --use-service-account-credentials \
         --leader-elect=false --cluster-cidr=10.244.0.0/16,fd00:244::/56 \
         --service-cluster-ip-range=10.96.0.0/16,fd00:96::/112 --allocate-node-cidrs=false --bind-address=127.0.0.1"
    );
    start_part("kube-controller-manager", &manager)?;
    let scheduler = format!(
        "--kubeconfig={pki}/scheduler.conf --authentication-kubeconfig={pki}/scheduler.conf \
         --authorization-kubeconfig={pki}/scheduler.conf --leader-elect=false --bind-address=127.0.0.1"
    );
    start_part("kube-scheduler", &scheduler)
}

fn start_part(program: &str, arguments: &str) -> Result<()> {
    spawn(program, on("cp", bin(program)).args(arguments.split_whitespace()))
}
