//! What every test starts from.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use metallb_e2e::plane::{
    NAMESPACE, Plane, free_port,
    objects::{api, create},
    proxy::Proxy,
    subject::{Subject, operator_command},
};
use serde_json::{Value, json};

/// No wait takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const METALLB: &str = "metallb.io/v1beta1";
/// Version and kind of what the API server asks webhooks about.
pub(crate) const ADMISSION: (&str, &str) =
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration");
/// Names of those that an installation brings.
pub(crate) const ADMISSIONS: [&str; 2] =
    ["metallb-operator-webhook-configuration", "metallb-webhook-configuration"];

/// A control plane, a way to it that can be broken, and an operator that takes this way.
pub(crate) struct Scene {
    /// The operator, while one runs.
    pub(crate) subject: Option<Subject>,
    pub(crate) proxy: Proxy,
    pub(crate) client: Client,
    pub(crate) plane: Plane,
}

impl Scene {
    pub(crate) async fn new() -> Result<Self> {
        let mut scene = Self::waiting().await?;
        scene.admissions().await?;
        let (proxy, config) = scene.plane.subject_proxy().await?;
        scene.proxy = proxy;
        scene.operate(&config)?;
        Ok(scene)
    }

    /// With no operator yet.
    pub(crate) async fn waiting() -> Result<Self> {
        let plane = Plane::start().await?;
        let (proxy, _) = plane.subject_proxy().await?;
        let client = plane.client().await?;
        Ok(Self { subject: None, proxy, client, plane })
    }

    /// Starts an operator that reaches the API server by this kubeconfig.
    pub(crate) fn operate(&mut self, config: &Path) -> Result<()> {
        self.subject = Some(start(&self.plane, config)?);
        Ok(())
    }

    /// Starts an operator with the rights of its account and no others, and waits until it has carried a MetalLB resource
    /// out.
    pub(crate) async fn install_with_own_rights(&mut self) -> Result<()> {
        self.admissions().await?;
        let config: PathBuf = self.plane.operator_config();
        self.operate(&config)?;
        self.install(&json!({})).await
    }

    /// With a MetalLB resource that was carried out.
    pub(crate) async fn installed() -> Result<Self> {
        let scene = Self::new().await?;
        scene.install(&json!({})).await?;
        Ok(scene)
    }

    /// The webhook configurations of the installation are there, but nobody asks this operator anything.
    pub(crate) async fn admissions(&self) -> Result<()> {
        for name in ADMISSIONS {
            create(&self.client, ADMISSION.0, ADMISSION.1, "", json!({"metadata": {"name": name}})).await?;
        }
        Ok(())
    }

    /// Makes a MetalLB resource of this spec, and waits until it was carried out.
    pub(crate) async fn install(&self, spec: &Value) -> Result<()> {
        let resource = json!({"metadata": {"name": "metallb"}, "spec": spec});
        create(&self.client, METALLB, "MetalLB", NAMESPACE, resource).await?;
        self.find("apps/v1", "DaemonSet", "speaker", |_| true).await?;
        Ok(())
    }

    /// Ends the operator as its pod is ended.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.subject.take().context("no operator runs")?.stop().await
    }

    /// Waits until Degraded is as it should be; how long that took, and what it says.
    pub(crate) async fn degraded(&self, right: impl Fn(&Value) -> bool) -> Result<(Duration, String)> {
        let began = Instant::now();
        let object =
            self.find(METALLB, "MetalLB", "metallb", |object| right(&whole(object, "Degraded"))).await?;
        let message = whole(&object, "Degraded")["message"].as_str().unwrap_or_default().to_owned();
        Ok((began.elapsed(), message))
    }

    /// Waits until Degraded names all of `texts`, within `limit`.
    pub(crate) async fn names(&self, reason: &str, texts: &[&str], limit: Duration) -> Result<()> {
        let named = |degraded: &Value| {
            let message = degraded["message"].as_str().unwrap_or_default();
            degraded["reason"] == reason && texts.iter().all(|text| message.contains(text))
        };
        let (took, message) = self.degraded(named).await?;
        println!("named after {} ms: {message}", took.as_millis());
        ensure!(took < limit, "{took:?} until {texts:?} were named");
        Ok(())
    }

    pub(crate) async fn recovers(&self) -> Result<()> {
        self.degraded(|degraded| degraded["status"] == "False").await.map(drop)
    }

    pub(crate) async fn pool(&self, number: usize) -> Result<()> {
        let spec = json!({"protocol": "layer2", "addresses": [format!("192.0.2.{number}/32")]});
        let pool = json!({"metadata": {"name": format!("p{number}")}, "spec": spec});
        create(&self.client, METALLB, "AddressPool", NAMESPACE, pool).await
    }

    /// Waits until an object is there and right.
    pub(crate) async fn find(
        &self,
        version: &str,
        kind: &str,
        name: &str,
        right: impl Fn(&DynamicObject) -> bool,
    ) -> Result<DynamicObject> {
        let objects = api(&self.client, version, kind, NAMESPACE);
        let look = async || objects.get_opt(name).await;
        let found = until(look, |found| found.as_ref().is_some_and(&right)).await;
        found.with_context(|| format!("{kind} {name}"))?.context("it is there")
    }

    /// Deletes an object and waits until another one has taken its place.
    pub(crate) async fn repaired(&self, version: &str, kind: &str, name: &str) -> Result<()> {
        let before = self.find(version, kind, name, |_| true).await?.uid();
        api(&self.client, version, kind, NAMESPACE).delete(name, &DeleteParams::background()).await?;
        self.find(version, kind, name, |object| object.uid() != before).await?;
        Ok(())
    }

    pub(crate) async fn merge(&self, kind: &str, name: &str, patch: &Value) -> Result<()> {
        let objects = api(&self.client, METALLB, kind, NAMESPACE);
        objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until each of `pools` is served and says so.
    pub(crate) async fn serves(&self, pools: std::ops::Range<usize>) -> Result<()> {
        for number in pools {
            let name = format!("p{number}");
            let ready = |object: &DynamicObject| {
                condition(object, "Ready").is_some_and(|(status, _)| status == "True")
            };
            self.find(METALLB, "AddressPool", &name, ready).await?;
            for kind in ["IPAddressPool", "L2Advertisement"] {
                self.find(METALLB, kind, &name, |_| true).await?;
            }
        }
        Ok(())
    }

    /// Starts another operator, in a pod of this name, that waits for the Lease. The one before it.
    pub(crate) async fn succeed(&mut self, pod: &str) -> Result<Subject> {
        let next = start_pod(&self.plane, &self.plane.subject_config(), pod)?;
        let log = self.plane.path(&format!("{pod}.log"));
        let look = async || Ok::<_, anyhow::Error>(std::fs::read_to_string(&log).unwrap_or_default());
        until(look, |log| log.contains("waiting for the lease")).await?;
        self.subject.replace(next).context("no operator ran")
    }

    pub(crate) async fn acts_within(&self, limit: Duration, after: &str) -> Result<()> {
        let began = Instant::now();
        self.repaired("v1", "ConfigMap", "metallb-excludel2").await?;
        let took = began.elapsed();
        println!("repaired {} ms after {after}", took.as_millis());
        ensure!(took < limit, "{took:?} after {after}");
        Ok(())
    }

    pub(crate) async fn is_at_rest(&self) -> Result<()> {
        let writes = self.plane.writes_at_rest(3).await?;
        ensure!(writes.keys().eq(["update leases"]), "{writes:?}");
        Ok(())
    }
}

pub(crate) fn start(plane: &Plane, config: &Path) -> Result<Subject> {
    start_pod(plane, config, "operator")
}

/// An operator that runs in a pod of this name.
pub(crate) fn start_pod(plane: &Plane, config: &Path, pod: &str) -> Result<Subject> {
    let program = std::env::var("METALLB_OPERATOR").context("METALLB_OPERATOR names no program")?;
    let command = operator_command(&program, NAMESPACE, pod, free_port()?, free_port()?);
    Subject::start(&command, config, &plane.path(&format!("{pod}.log")))
}

/// Looks until what is seen is right.
pub(crate) async fn until<T: Debug, E: Debug>(
    look: impl AsyncFn() -> Result<T, E>,
    right: impl Fn(&T) -> bool,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(seen) if right(&seen) => return Ok(seen),
            seen if started.elapsed() > LIMIT => bail!("after {} s: {seen:?}", LIMIT.as_secs()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A condition whole.
pub(crate) fn whole(object: &DynamicObject, kind: &str) -> Value {
    let conditions = object.data["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.cloned().unwrap_or_default()
}

/// Status of a condition, and the generation that it speaks of.
pub(crate) fn condition(object: &DynamicObject, kind: &str) -> Option<(String, Option<i64>)> {
    let found = whole(object, kind);
    Some((found["status"].as_str()?.to_owned(), found["observedGeneration"].as_i64()))
}
