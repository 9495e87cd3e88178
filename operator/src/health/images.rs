//! Which images a node has, as its kubelet says.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerImage, Node, Pod};

use super::trouble::{containers, waiting_for};

/// As many images a kubelet lists at most, unless it is told otherwise (`nodeStatusMaxImages`): a list of that length
/// does not say what is missing.
const LISTED: usize = 50;
/// How long an image may be pulled, as long as the node does not tell whether it has it: a volume or a network that is
/// not there looks the same.
const UNSEEN_PULL: Duration = Duration::from_secs(600);

/// Puts in the place of a node's list of images a digest of each name, since all names of all nodes would be much to keep.
/// A list that is cut off is dropped.
pub fn trim(node: &mut Node) {
    let Some(status) = &mut node.status else { return };
    let listed = status.images.take().filter(|listed| !listed.is_empty() && listed.len() < LISTED);
    status.images = listed.map(|listed| {
        let names = listed.into_iter().flat_map(|image| image.names.unwrap_or_default());
        let digests: Vec<_> = names.map(|name| digest(&name)).collect();
        vec![ContainerImage { names: Some(vec![digests.join(" ")]), size_bytes: None }]
    });
}

fn digest(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Whether it is known that the node does not have `image`.
#[must_use]
pub fn lacks(node: &Node, image: &str) -> bool {
    is_listed(node, image) == Some(false)
}

/// Whether the node, of which [`trim`] left what is needed, has `image`; `None` when it is not known.
#[must_use]
pub fn is_listed(node: &Node, image: &str) -> Option<bool> {
    let listed = node.status.as_ref().and_then(|status| status.images.as_ref())?;
    let mut digests =
        listed.iter().flat_map(|image| image.names.iter().flatten()).flat_map(|all| all.split(' '));
    // A tag beside a digest says nothing more.
    let wanted = match image.split_once('@') {
        Some((name, digest)) => format!("{}@{digest}", untagged(name)),
        None => image.to_owned(),
    };
    let spellings =
        ["", "docker.io/", "docker.io/library/"].map(|before| digest(&format!("{before}{wanted}")));
    Some(digests.any(|digest| spellings.iter().any(|spelling| spelling == digest)))
}

/// Until when a pod that has not begun may wait for an image that the node is still pulling; `None` when it waits for
/// something else. What a node does that does not tell is not waited for longer than [`UNSEEN_PULL`].
pub(super) fn pulling(node: &Node, pod: &Pod) -> Option<Timestamp> {
    if of_pod(pod).any(|image| lacks(node, image)) {
        return Some(Timestamp::MAX);
    }
    let is_unknown = of_pod(pod).any(|image| is_listed(node, image).is_none());
    let is_being_made = waiting_for(pod) == Some("ContainerCreating");
    let made = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let ends = || made().map_or(Some(Timestamp::MAX), |made| made.checked_add(UNSEEN_PULL).ok());
    (is_unknown && is_being_made).then(ends).flatten()
}

/// Whether a container of the pod, which is one of `image`, began at any time, so that the image was there.
#[must_use]
pub fn has_run(pod: &Pod, image: &str) -> bool {
    let is_of_it = of_pod(pod).any(|own| own == image);
    is_of_it
        && containers(pod).any(|container| {
            let states = [container.state.as_ref(), container.last_state.as_ref()];
            let mut states = states.into_iter().flatten();
            !container.image_id.is_empty()
                || states.any(|state| state.running.is_some() || state.terminated.is_some())
        })
}

fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// Images that the containers of a pod run.
pub(super) fn of_pod(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref());
    let main = spec.map(|spec| &spec.containers);
    init.into_iter()
        .flatten()
        .chain(main.into_iter().flatten())
        .filter_map(|container| container.image.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(names: &[&str]) -> Node {
        let mut node = serde_json::from_value(
            serde_json::json!({"status": {"images": [{"names": names}, {"names": ["other:1"]}]}}),
        )
        .unwrap();
        trim(&mut node);
        node
    }

    #[test]
    fn an_image_is_known_by_its_whole_name() {
        let node =
            node(&["localhost/metallb/speaker:1", "reg:5000/m/speaker@sha256:ab", "docker.io/m/speaker:2"]);
        let table = [
            ("localhost/metallb/speaker:1", false),
            ("localhost/metallb/speaker:2", true),
            ("reg:5000/m/speaker:7@sha256:ab", false),
            ("reg:5000/m/speaker@sha256:cd", true),
            ("m/speaker:2", false),
            ("other:1", false),
            ("mirror/metallb-speaker-rhel9:1", true),
        ];
        for (image, want) in table {
            assert_eq!(lacks(&node, image), want, "{image}");
        }
    }

    #[test]
    fn of_a_list_that_is_not_whole_nothing_is_known() {
        let image = |at: usize| serde_json::json!({"names": [format!("i:{at}")]});
        let mut cut: Node = serde_json::from_value(
            serde_json::json!({"status": {"images": (0..50).map(image).collect::<Vec<_>>()}}),
        )
        .unwrap();
        trim(&mut cut);
        assert!(!lacks(&cut, "speaker:1"));
        let mut silent = Node::default();
        trim(&mut silent);
        assert!(!lacks(&silent, "speaker:1"));
    }
}
