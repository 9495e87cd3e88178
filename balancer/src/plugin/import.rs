//! `kubectl metallb import`: the ConfigMap of MetalLB 0.12 and older, as the objects that say the same.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Resource};
use metallb_api::names::LEGACY_CONFIG;
use metallb_core::{config, legacy};
use serde::Serialize;
use serde_json::{Value, json};

use crate::inspect::Cluster;

/// What is made of a ConfigMap.
#[derive(Debug, PartialEq)]
pub(super) struct Import {
    objects: Vec<Value>,
    /// While there is one, nothing is made of it.
    problems: Vec<String>,
}

impl Import {
    /// Of the text of a configuration; the objects are for `namespace`.
    pub(super) fn of(text: &str, namespace: &str) -> Self {
        let legacy = match legacy::parse(text) {
            Ok(legacy) => legacy,
            Err(problem) => return Self { objects: Vec::new(), problems: vec![problem] },
        };
        let problems = config::parse(&legacy.objects()).1;
        let mut import =
            Self { objects: Vec::new(), problems: problems.iter().map(ToString::to_string).collect() };
        if problems.is_empty() {
            legacy.pools.iter().for_each(|object| import.take(object, namespace));
            legacy.l2_advertisements.iter().for_each(|object| import.take(object, namespace));
            legacy.communities.iter().for_each(|object| import.take(object, namespace));
            legacy.bgp_advertisements.iter().for_each(|object| import.take(object, namespace));
            legacy.bfd_profiles.iter().for_each(|object| import.take(object, namespace));
            legacy.peers.iter().for_each(|object| import.take(object, namespace));
        }
        import
    }

    fn take<K: Resource + Serialize + Clone>(&mut self, object: &K, namespace: &str) {
        let mut object = object.clone();
        object.meta_mut().namespace = Some(namespace.to_owned());
        match serde_json::to_value(&object) {
            Ok(object) => self.objects.push(object),
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    /// Whether everything could be made.
    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// YAML for `kubectl apply -f -`. Problems are comments, so that nothing is applied.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        if !self.is_good() {
            text.push_str("# nothing is made of this configuration while it has problems:\n");
        }
        for line in self.problems.iter().flat_map(|problem| problem.lines()) {
            let _ = writeln!(text, "# {line}");
        }
        for object in &self.objects {
            text.push_str("---\n");
            text.push_str(&serde_saphyr::to_string(object).context("an object cannot be written")?);
        }
        Ok(text)
    }
}

impl Serialize for Import {
    /// A list that can be applied, or the problems.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = if self.is_good() {
            json!({ "apiVersion": "v1", "kind": "List", "items": self.objects })
        } else {
            json!({ "problems": self.problems })
        };
        value.serialize(serializer)
    }
}

/// The configuration in ConfigMap `name` of the load balancer's namespace.
///
/// # Errors
/// When there is none, or it cannot be read.
pub(super) async fn in_cluster(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let found = api.get_opt(name).await.context("cannot read the ConfigMap")?;
    let Some(found) = found else { bail!("there is no ConfigMap {name} in namespace {}", cluster.namespace) };
    let mut data = found.data.unwrap_or_default();
    data.remove(LEGACY_CONFIG).with_context(|| format!("ConfigMap {name} has no key {LEGACY_CONFIG}"))
}

/// The configuration in a file: the text of MetalLB's configuration, or a ConfigMap that holds it.
///
/// # Errors
/// When the file cannot be read, or holds other objects than such a ConfigMap.
pub(super) fn in_file(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| shown.to_string())?;
    // What is no YAML is the parser's to tell.
    let documents = serde_saphyr::from_multiple::<Value>(&text).unwrap_or_default();
    let objects: Vec<&Value> = documents.iter().filter(|document| document["kind"].is_string()).collect();
    if objects.is_empty() {
        return Ok(text);
    }
    let mut configurations = objects.into_iter().filter_map(|object| object["data"][LEGACY_CONFIG].as_str());
    match (configurations.next(), configurations.next()) {
        (Some(one), None) => Ok(one.to_owned()),
        (None, _) => bail!("{shown}: no ConfigMap with the key {LEGACY_CONFIG}"),
        (Some(_), Some(_)) => bail!("{shown}: several ConfigMaps with the key {LEGACY_CONFIG}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
peers: [{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1}]
address-pools: [{name: Old Pool, protocol: layer2, addresses: [198.51.100.0/28]}]
";

    #[test]
    fn objects_are_written_so_that_they_can_be_applied() {
        let import = Import::of(CONFIG, "lb");
        assert_eq!(
            import.text().unwrap(),
            "---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: old-pool
  namespace: lb
spec:
  addresses:
  - 198.51.100.0/28
  autoAssign: true
  avoidBuggyIPs: false
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: old-pool
  namespace: lb
spec:
  ipAddressPools:
  - old-pool
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata:
  name: peer-192-0-2-1
  namespace: lb
spec:
  disableMP: false
  dualStackAddressFamily: false
  myASN: 64512
  peerASN: 64513
  peerAddress: \"192.0.2.1\"
  peerPort: 179
"
        );
        let list = serde_json::to_value(&import).unwrap();
        assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("List"), Some(3)));
    }

    #[test]
    fn nothing_is_made_while_one_entry_has_a_problem() {
        let import = Import::of("address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.9]}]", "lb");
        let problem =
            "IPAddressPool \"a\": spec.addresses[0]: 192.0.2.9 is a single address: write 192.0.2.9/32";
        assert_eq!(
            import.text().unwrap(),
            format!("# nothing is made of this configuration while it has problems:\n# {problem}\n")
        );
        assert_eq!(serde_json::to_value(&import).unwrap(), json!({ "problems": [problem] }));
        assert!(!Import::of("address-pools: 7", "lb").is_good());
    }

    #[test]
    fn a_file_is_a_config_map_or_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            in_file(&file).map_err(|error| error.to_string())
        };
        let map =
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata:\n  config: |\n    peers: []\n";
        assert_eq!(read(map), Ok("peers: []\n".to_owned()));
        assert_eq!(read(CONFIG), Ok(CONFIG.to_owned()));
        assert_eq!(read("peers: ["), Ok("peers: [".to_owned()));
        for (text, told) in [
            ("kind: Secret\n".to_owned(), "no ConfigMap"),
            (format!("{map}---\n{map}"), "several ConfigMaps"),
        ] {
            assert!(read(&text).unwrap_err().contains(told));
        }
    }
}
