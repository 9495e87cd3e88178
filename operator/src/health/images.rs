//! Which images a node has, as its kubelet says.

use k8s_openapi::api::core::v1::{ContainerImage, Node, Pod};

use super::trouble::{containers, waiting_for};

/// As many images a kubelet lists at most, unless it is told otherwise (`nodeStatusMaxImages`): a list of that length
/// does not say what is missing.
const LISTED: usize = 50;

/// Name of an image without registry, path, tag and digest.
fn short(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split(':').next().unwrap_or_default()
}

/// Leaves of a node's list of images the names that are like one of `images`. A list that is cut off is dropped.
pub fn trim(node: &mut Node, images: &[&str]) {
    let Some(status) = &mut node.status else { return };
    let listed = status.images.take().filter(|listed| !listed.is_empty() && listed.len() < LISTED);
    status.images = listed.map(|listed| {
        let names = listed.into_iter().flat_map(|image| image.names.unwrap_or_default());
        let kept = names.filter(|name| images.iter().any(|image| short(image) == short(name))).collect();
        vec![ContainerImage { names: Some(kept), size_bytes: None }]
    });
}

/// Whether it is known that the node does not have `image`.
#[must_use]
pub fn lacks(node: &Node, image: &str) -> bool {
    is_listed(node, image) == Some(false)
}

/// Whether the node has `image`; `None` when it is not known.
#[must_use]
pub fn is_listed(node: &Node, image: &str) -> Option<bool> {
    let listed = node.status.as_ref().and_then(|status| status.images.as_ref())?;
    let names: Vec<&String> = listed.iter().flat_map(|image| image.names.iter().flatten()).collect();
    // A tag beside a digest says nothing more.
    let wanted = match image.split_once('@') {
        Some((name, digest)) => format!("{}@{digest}", untagged(name)),
        None => image.to_owned(),
    };
    let is_it = |name: &&&String| {
        **name == &wanted
            || **name == &format!("docker.io/{wanted}")
            || **name == &format!("docker.io/library/{wanted}")
    };
    Some(names.iter().any(|name| is_it(&name)))
}

/// Whether a pod that has not begun may wait for an image that the node is still pulling.
pub(super) fn may_be_pulled(node: &Node, pod: &Pod) -> bool {
    let is_being_made = || waiting_for(pod) == Some("ContainerCreating");
    of_pod(pod).any(|image| is_listed(node, image).map_or_else(is_being_made, |listed| !listed))
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
        serde_json::from_value(
            serde_json::json!({"status": {"images": [{"names": names}, {"names": ["other:1"]}]}}),
        )
        .unwrap()
    }

    #[test]
    fn an_image_is_known_by_its_whole_name() {
        let mut node =
            node(&["localhost/metallb/speaker:1", "reg:5000/m/speaker@sha256:ab", "docker.io/m/speaker:2"]);
        trim(&mut node, &["localhost/metallb/speaker:9"]);
        let table = [
            ("localhost/metallb/speaker:1", false),
            ("localhost/metallb/speaker:2", true),
            ("reg:5000/m/speaker:7@sha256:ab", false),
            ("reg:5000/m/speaker@sha256:cd", true),
            ("m/speaker:2", false),
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
        trim(&mut cut, &["speaker:1"]);
        assert!(!lacks(&cut, "speaker:1"));
        let mut silent = Node::default();
        trim(&mut silent, &["speaker:1"]);
        assert!(!lacks(&silent, "speaker:1"));
    }
}
