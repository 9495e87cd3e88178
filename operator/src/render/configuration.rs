//! What the workloads read: the key of the gossip and the interfaces that never announce.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use metallb_api::names;

use super::{Context, metadata};
use crate::install::Install;

/// Interfaces of container networks, on which no client is found.
pub const DEFAULT_EXCLUDED_INTERFACES: [&str; 14] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
];

pub(crate) fn memberlist(context: Context<'_>) -> Secret {
    let data = context.memberlist.iter().map(|(key, value)| (key.clone(), ByteString(value.clone())));
    Secret {
        metadata: metadata(names::MEMBERLIST_SECRET, None, context),
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

pub(super) fn exclude_l2(install: &Install, context: Context<'_>) -> ConfigMap {
    let mut text = "announcedInterfacesToExclude:\n".to_owned();
    let chosen = install.excluded_interfaces.as_ref();
    let patterns: Vec<&str> = match chosen {
        Some(patterns) => patterns.iter().map(String::as_str).collect(),
        None => DEFAULT_EXCLUDED_INTERFACES.to_vec(),
    };
    if patterns.is_empty() {
        text = "announcedInterfacesToExclude: []\n".to_owned();
    }
    for pattern in patterns {
        // JSON strings are YAML strings, whatever the pattern holds.
        text.push_str(&format!("- {}\n", serde_json::Value::from(pattern)));
    }
    ConfigMap {
        metadata: metadata(names::EXCLUDE_L2_CONFIG, None, context),
        data: Some(BTreeMap::from([(names::EXCLUDE_L2_CONFIG_KEY.to_owned(), text)])),
        ..ConfigMap::default()
    }
}
