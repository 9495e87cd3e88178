//! Deployment `controller`.

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec},
    core::v1::{
        Capabilities, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
        SecurityContext,
    },
};
use kube::core::ObjectMeta;
use metallb_api::names;

use super::{
    Context, common_args, field_variable, image_pull_secrets, label_selector, liveness, metadata,
    min_ready_seconds, node_selector, pod_labels, port, readiness, variable,
};
use crate::install::Install;

/// User and group `nobody`.
const NOBODY: i64 = 65534;

pub(super) fn deployment(install: &Install, context: Context<'_>) -> Deployment {
    let workload = &install.controller;
    let pod = PodSpec {
        service_account_name: Some("controller".to_owned()),
        termination_grace_period_seconds: Some(10),
        node_selector: Some(node_selector(&workload.node_selector)),
        tolerations: (!workload.tolerations.is_empty()).then(|| workload.tolerations.clone()),
        affinity: workload.affinity.clone(),
        priority_class_name: workload.priority_class_name.clone(),
        runtime_class_name: workload.runtime_class_name.clone(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            fs_group: Some(NOBODY),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: image_pull_secrets(install),
        containers: vec![container(install, context)],
        ..PodSpec::default()
    };
    let annotations = (!workload.annotations.is_empty()).then(|| workload.annotations.clone());
    Deployment {
        metadata: metadata(names::CONTROLLER, Some(names::CONTROLLER), context),
        spec: Some(DeploymentSpec {
            replicas: Some(install.replicas),
            min_ready_seconds: Some(min_ready_seconds()),
            revision_history_limit: Some(3),
            selector: label_selector(names::CONTROLLER),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(names::CONTROLLER)),
                    annotations,
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// What decides about Services is in the environment, which a program that is run beside the controller's shares: so
/// `--explain` and `--diff` judge as it does.
fn environment(install: &Install) -> Vec<EnvVar> {
    let mut environment = vec![
        field_variable("METALLB_NAMESPACE", "metadata.namespace"),
        field_variable("METALLB_POD_NAME", "metadata.name"),
        variable("METALLB_DEPLOYMENT", names::CONTROLLER),
        variable("METALLB_ML_SECRET_NAME", names::MEMBERLIST_SECRET),
    ];
    environment.extend(install.load_balancer_class.iter().map(|class| variable("METALLB_LB_CLASS", class)));
    let policy = install.pool_edit_policy.iter();
    environment.extend(policy.map(|policy| variable("METALLB_POOL_EDIT_POLICY", policy.as_str())));
    environment.extend(install.ignore_exclude_lb.then(|| variable("METALLB_IGNORE_EXCLUDE_LB", "true")));
    environment
}

fn container(install: &Install, context: Context<'_>) -> Container {
    let settings = context.settings;
    Container {
        name: names::CONTROLLER.to_owned(),
        image: Some(settings.controller_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(common_args(install, settings)),
        env: Some(environment(install)),
        ports: Some(vec![
            port("metricshttps", settings.ports.metrics, "TCP"),
            port("probes", settings.ports.probes, "TCP"),
        ]),
        readiness_probe: Some(readiness(None, settings.ports.probes)),
        liveness_probe: Some(liveness(None, settings.ports.probes)),
        resources: install.controller.resources.clone(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}
