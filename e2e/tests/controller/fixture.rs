//! A control plane, a controller that the kubelet would start again, and a record of all that Services showed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use metallb_e2e::plane::{
    Plane, free_port,
    load::{Load, addresses},
    subject::Subject,
};
use serde_json::{Value, json};

/// No wait for the controller takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A control plane with one pool `main` of a /16 and a user who makes load.
pub(crate) struct World {
    // First, so that it ends before what it watches does.
    pub(crate) load: Load,
    pub(crate) plane: Plane,
    pub(crate) client: Client,
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        Self::with_users(&[]).await
    }

    /// The same with further users who may do everything.
    pub(crate) async fn with_users(users: &[String]) -> Result<Self> {
        let plane = Plane::start_for(users).await?;
        let client = plane.client().await?;
        let load = Load::new(client.clone());
        load.pool("main", &json!({ "addresses": ["10.99.0.0/16"] })).await?;
        Ok(Self { plane, load, client })
    }

    /// Starts a controller that reaches the API server directly.
    pub(crate) fn controller(&self) -> Result<Subject> {
        self.controller_by(&self.plane.controller_config(), "controller")
    }

    /// Starts a controller with this kubeconfig and this identity.
    pub(crate) fn controller_by(&self, config: &Path, identity: &str) -> Result<Subject> {
        let probes = free_port()?;
        let command =
            format!("{} --port=0 --health-probe-port={probes} --pod-name={identity}", program()?.display());
        Subject::start(&command, config, &self.log())
    }

    /// What the controllers said.
    pub(crate) fn log(&self) -> PathBuf {
        self.plane.path("controller.log")
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The addresses that each Service shows now.
    pub(crate) async fn shown(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let all = self.services().list(&ListParams::default()).await?;
        let shown = all.iter().map(|service| (service.name_any(), addresses(service)));
        Ok(shown.filter(|(_, addresses)| !addresses.is_empty()).collect())
    }

    /// Reason and message of a condition of a Service.
    pub(crate) async fn condition(&self, service: &str, kind: &str) -> Result<Option<(String, String)>> {
        let service = self.services().get(service).await?;
        let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind);
        Ok(found.map(|condition| (condition.reason, condition.message)))
    }

    /// Waits until the condition `metallb.io/AddressAssigned` of a Service has this reason; returns its message.
    pub(crate) async fn reason(&self, service: &str, reason: &str) -> Result<String> {
        self.condition_reason(service, "metallb.io/AddressAssigned", reason).await
    }

    pub(crate) async fn condition_reason(&self, service: &str, kind: &str, reason: &str) -> Result<String> {
        let found = until(
            || self.condition(service, kind),
            |found| found.as_ref().is_some_and(|(found, _)| found == reason),
        )
        .await
        .with_context(|| format!("reason {reason} of {kind} of Service {service}"))?;
        Ok(found.map(|(_, message)| message).unwrap_or_default())
    }

    /// Gives a Service the status that a controller before gave it.
    pub(crate) async fn hold(&self, service: &str, address: &str) -> Result<()> {
        let patch = json!({
            "metadata": { "annotations": { "metallb.io/ip-allocated-from-pool": "main" } },
            "status": { "loadBalancer": { "ingress": [{ "ip": address }] } },
        });
        let params = PatchParams::default();
        self.services().patch_status(service, &params, &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Applies an object.
    pub(crate) fn apply(&self, object: &Value) -> Result<()> {
        let path = self.plane.path("object.json");
        std::fs::write(&path, object.to_string())?;
        self.plane.kubectl(&["apply", "-f", &path.display().to_string()]).map(drop)
    }

    pub(crate) async fn annotate(&self, service: &str, key: &str, value: &Value) -> Result<()> {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        self.services().patch(service, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// An object of the load balancer's namespace with these further fields.
pub(crate) fn own(kind: &str, name: &str, rest: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": kind,
        "metadata": { "name": name, "namespace": "metallb-system" },
    });
    for (key, value) in rest.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

/// The program under test.
pub(crate) fn program() -> Result<PathBuf> {
    let path = std::env::var_os("METALLB_CONTROLLER").context("METALLB_CONTROLLER names no program")?;
    Ok(PathBuf::from(path))
}

pub(crate) fn names(prefix: &str, numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|number| format!("{prefix}-{number}")).collect()
}

/// Looks until what is seen is right.
pub(crate) async fn until<T: Debug>(
    look: impl AsyncFn() -> Result<T>,
    right: impl Fn(&T) -> bool,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let seen = look().await;
        match seen {
            Ok(seen) if right(&seen) => return Ok(seen),
            seen if started.elapsed() > LIMIT => bail!("after {} s: {seen:?}", LIMIT.as_secs()),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What no Service may ever show.
pub(crate) fn surprises(load: &Load) -> Vec<String> {
    load.surprises()
}
