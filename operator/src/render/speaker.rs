//! DaemonSet `speaker`.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
    core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, EnvVar, PodSpec, PodTemplateSpec, SeccompProfile,
        SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
    },
};
use kube::core::ObjectMeta;
use metallb_api::names;

use super::{
    Context, common_args, field_variable, image_pull_secrets, label_selector, liveness, metadata,
    min_ready_seconds, node_selector, pod_labels, port, readiness, variable,
};
use crate::{install::Install, settings::Settings};

/// The speaker's probes are not open to the network.
const LOOPBACK: Option<&str> = Some("127.0.0.1");
/// Time in which a leaving speaker hands its addresses over.
const GRACE_SECONDS: i64 = 15;
/// Annotation of the pods with the patterns that an administrator chose, so that a change of them restarts the pods.
const EXCLUDED_INTERFACES: &str = "metallb.io/excluded-interfaces";
/// Read by the owner only.
const PRIVATE: i32 = 0o400;

pub(super) fn daemon_set(install: &Install, context: Context<'_>) -> DaemonSet {
    let workload = &install.speaker;
    let mut tolerations = vec![
        control_plane("node-role.kubernetes.io/master"),
        control_plane("node-role.kubernetes.io/control-plane"),
    ];
    tolerations.extend(workload.tolerations.clone());
    let pod = PodSpec {
        service_account_name: Some("speaker".to_owned()),
        host_network: Some(true),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        node_selector: Some(node_selector(&workload.node_selector)),
        tolerations: Some(tolerations),
        affinity: workload.affinity.clone(),
        priority_class_name: workload.priority_class_name.clone(),
        runtime_class_name: workload.runtime_class_name.clone(),
        image_pull_secrets: image_pull_secrets(install),
        containers: vec![container(install, context)],
        volumes: Some(vec![
            Volume {
                name: "memberlist".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(names::MEMBERLIST_SECRET.to_owned()),
                    default_mode: Some(PRIVATE),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
            Volume {
                name: names::EXCLUDE_L2_CONFIG.to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: names::EXCLUDE_L2_CONFIG.to_owned(),
                    default_mode: Some(PRIVATE),
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            },
        ]),
        ..PodSpec::default()
    };
    let mut annotations = workload.annotations.clone();
    if let Some(patterns) = &install.excluded_interfaces {
        // The list is read at the start.
        annotations.insert(EXCLUDED_INTERFACES.to_owned(), patterns.join(" "));
    }
    let annotations = (!annotations.is_empty()).then_some(annotations);
    DaemonSet {
        metadata: metadata(names::SPEAKER, Some(names::SPEAKER), context),
        spec: Some(DaemonSetSpec {
            min_ready_seconds: Some(min_ready_seconds()),
            selector: label_selector(names::SPEAKER),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(names::SPEAKER)),
                    annotations,
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(install.max_unavailable.clone()),
                    ..RollingUpdateDaemonSet::default()
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn control_plane(key: &str) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    }
}

fn args(install: &Install, settings: &Settings) -> Vec<String> {
    let mut args = common_args(install, settings);
    args.extend(install.load_balancer_class.iter().map(|class| format!("--lb-class={class}")));
    args.extend(install.ignore_exclude_lb.then(|| "--ignore-exclude-lb".to_owned()));
    args.extend(install.bgp_listen.then(|| "--bgp-listen".to_owned()));
    args.extend(install.layer2.clone());
    args
}

/// What the speaker may do on its node.
fn capabilities(install: &Install) -> Vec<String> {
    let mut add = vec!["NET_RAW".to_owned()];
    // Port 179 is below 1024.
    add.extend(install.bgp_listen.then(|| "NET_BIND_SERVICE".to_owned()));
    add
}

fn container(install: &Install, context: Context<'_>) -> Container {
    let settings = context.settings;
    Container {
        name: names::SPEAKER.to_owned(),
        image: Some(settings.speaker_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(args(install, settings)),
        env: Some(environment(install, settings.ports.memberlist)),
        ports: Some(vec![
            port("metricshttps", settings.ports.metrics, "TCP"),
            port("memberlist-udp", settings.ports.memberlist, "UDP"),
        ]),
        readiness_probe: Some(readiness(LOOPBACK, settings.ports.probes)),
        liveness_probe: Some(liveness(LOOPBACK, settings.ports.probes)),
        resources: install.speaker.resources.clone(),
        security_context: Some(SecurityContext {
            // Raw sockets of an unprivileged user would need ambient capabilities, which Kubernetes does not grant.
            run_as_user: Some(0),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: Some(capabilities(install)),
            }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("memberlist", "/etc/ml_secret_key"),
            mount(names::EXCLUDE_L2_CONFIG, "/etc/metallb"),
        ]),
        ..Container::default()
    }
}

fn environment(install: &Install, memberlist: u16) -> Vec<EnvVar> {
    vec![
        // BGP keeps the habits that users of the backend know, such as its TTL.
        variable("METALLB_BGP_TYPE", install.bgp_backend.as_str()),
        field_variable("METALLB_NAMESPACE", "metadata.namespace"),
        field_variable("METALLB_NODE_NAME", "spec.nodeName"),
        field_variable("METALLB_POD_NAME", "metadata.name"),
        field_variable("METALLB_HOST", "status.hostIP"),
        field_variable("METALLB_ML_BIND_ADDR", "status.podIP"),
        variable("METALLB_ML_BIND_PORT", &memberlist.to_string()),
        variable("METALLB_ML_LABELS", "app=metallb,component=speaker"),
        variable("METALLB_ML_SECRET_KEY_PATH", "/etc/ml_secret_key"),
    ]
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}
