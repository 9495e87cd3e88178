//! Which cluster is asked, and what the load balancer in it was told.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use metallb_api::{ConfigurationState, MetalLB, names::METALLB_NAME};
use metallb_core::allocator::PoolEditPolicy;

use crate::inspect::{Allocation, Announcing, Cluster, Terms};

/// Which cluster is asked, by flags with kubectl's names.
#[derive(Args, Clone, Debug)]
pub(super) struct Target {
    /// The kubeconfig; by default the files in KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than its current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace of the Services that are asked about.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Namespace of the load balancer.
    #[arg(long, global = true, env = "METALLB_NAMESPACE", default_value = "metallb-system")]
    metallb_namespace: String,
}

/// A cluster, with what its MetalLB resource says.
pub(super) struct Place {
    /// Access to it.
    pub(super) cluster: Cluster,
    /// The resource by which the load balancer was installed, if any.
    pub(super) metallb: Option<MetalLB>,
    /// The namespace given by -n.
    pub(super) chosen: Option<String>,
    /// The namespace of the kubeconfig's context.
    default: String,
}

impl Target {
    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        match (&self.kubeconfig, &self.context) {
            (Some(file), _) => {
                let read = Kubeconfig::read_from(file).with_context(|| file.display().to_string())?;
                Config::from_custom_kubeconfig(read, &options).await.context("the kubeconfig")
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.context("the kubeconfig"),
            (None, None) => Config::infer().await.context("no access to a cluster"),
        }
    }

    /// Namespace of the load balancer.
    pub(super) fn metallb_namespace(&self) -> &str {
        &self.metallb_namespace
    }

    /// Access to the cluster, and the namespace of the context.
    pub(super) async fn cluster(&self) -> anyhow::Result<(Cluster, String)> {
        let config = self.config().await?;
        let default = config.default_namespace.clone();
        let client = Client::try_from(config).context("no access to a cluster")?;
        Ok((Cluster { client, namespace: self.metallb_namespace.clone() }, default))
    }
}

impl Place {
    /// Finds the cluster and its MetalLB resource.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub(super) async fn find(target: &Target) -> anyhow::Result<Self> {
        let (cluster, default) = target.cluster().await?;
        let api: Api<MetalLB> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let metallb = match api.get_opt(METALLB_NAME).await {
            // There is no such kind in a cluster without the operator; pools there are all the same.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            found => found.context("cannot read the MetalLB resource")?,
        };
        Ok(Self { cluster, metallb, chosen: target.namespace.clone(), default })
    }

    /// The namespace of a Service that is named without one.
    pub(super) fn chosen_or_default(&self) -> &str {
        self.chosen.as_deref().unwrap_or(&self.default)
    }

    /// What the MetalLB resource says about Services.
    fn terms(&self) -> Terms {
        let Some(spec) = self.metallb.as_ref().map(|metallb| &metallb.spec) else { return Terms::default() };
        Terms {
            class: spec.load_balancer_class.clone(),
            policy: match spec.pool_edit_policy {
                Some(metallb_api::PoolEditPolicy::KeepInUse) => PoolEditPolicy::KeepInUse,
                Some(metallb_api::PoolEditPolicy::Reference) | None => PoolEditPolicy::Reference,
            },
            ignore_exclude_label: spec.ignore_exclude_lb.unwrap_or_default(),
        }
    }

    /// What addresses are given from.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn allocation(&self) -> anyhow::Result<Allocation> {
        Allocation::read(&self.cluster, self.terms()).await
    }

    /// What announcements depend on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn announcing(&self) -> anyhow::Result<Announcing> {
        Announcing::read(&self.cluster, None).await
    }

    /// What the programs say about their configuration.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn states(&self) -> anyhow::Result<Vec<ConfigurationState>> {
        self.cluster.own("").await
    }
}
