//! What every test starts from, and what it leaves behind: a namespace and pools of its own, removed at its end.

use std::time::Duration;

use metallb_e2e::{
    deploy::NAMESPACE,
    exec::wait_until,
    observe::{apply, kube},
    web,
};

/// The MetalLB resource that all tests share, Available.
pub(crate) fn available() {
    apply(include_str!("../../demo/metallb.yaml")).unwrap();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s")).unwrap();
}

/// A namespace with the web application `web` in it, and a pool of the same name; both go with it.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
}

impl Scene {
    /// A pool with `addresses` (YAML flow sequence) and three ready web pods, in namespace `name`.
    pub(crate) fn new(name: &'static str, addresses: &str) -> Self {
        Self::of(
            name,
            &format!(
                "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
                 spec: {{protocol: layer2, addresses: {addresses}, autoAssign: false}}\n"
            ),
        )
    }

    /// The same with a pool that is of this YAML.
    pub(crate) fn of(name: &'static str, pool: &str) -> Self {
        available();
        let scene = Self { name };
        apply(pool).unwrap();
        apply(&web::workload(name)).unwrap();
        kube(&format!("-n {name} rollout status deployment/web --timeout=60s")).unwrap();
        web::make_room(name).unwrap();
        scene
    }

    /// A Service of the web pods that draws from the scene's pool; `spec` is more YAML of its spec, in flow style.
    pub(crate) fn service(&self, service: &str, spec: &str) {
        let name = self.name;
        apply(&format!(
            "apiVersion: v1\nkind: Service\n\
             metadata: {{name: {service}, namespace: {name}, annotations: {{metallb.io/address-pool: {name}}}}}\n\
             spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]{spec}}}\n"
        ))
        .unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let name = self.name;
        let kinds = "addresspool,ipaddresspool,l2advertisement,bgpadvertisement";
        let pool = kube(&format!("-n {NAMESPACE} delete {kinds} {name} --ignore-not-found"));
        let namespace = kube(&format!("delete namespace {name} --ignore-not-found"));
        if !std::thread::panicking() {
            pool.and(namespace).unwrap();
        }
    }
}

/// Waits until `check` succeeds, or fails the test with what was there instead.
pub(crate) fn eventually(what: &str, seconds: u64, mut check: impl FnMut() -> anyhow::Result<()>) {
    wait_until(what, Duration::from_secs(seconds), || check().map(|()| None)).unwrap();
}
