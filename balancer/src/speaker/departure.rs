//! How this speaker ends: its successor on the same node follows, or the node gives its addresses away.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Client};
use metallb_core::selector::Labels;
use metallb_runtime::placement;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest time for asking the API server what the end means.
const ASK: Duration = Duration::from_secs(1);
/// How often the kubelet is looked for, and the time between: on a host that shuts down it may end a moment after this
/// speaker was asked to.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Looks in a row that it refuses before it counts as ended.
const REFUSED: u32 = 3;
/// Time for the new owners to be heard, after which this speaker answers no more.
const HAND_OVER: Duration = Duration::from_millis(300);

/// How a speaker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its successor on the node follows: no address moves.
    Restart,
    /// The node gives up its part: the addresses move first.
    Leave,
}

/// What is known of this speaker's node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Home {
    /// It announces nothing any more: it shuts down, is out of service, excluded by its label or deleted.
    pub(super) going: bool,
    /// Its labels.
    pub(super) labels: Labels,
    /// Where its kubelet listens.
    pub(super) kubelet: Vec<SocketAddr>,
}

/// Who this speaker is in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) namespace: String,
    pub(super) pod: String,
}

/// Waits until the program is `asked` to end, tells how it ends, and ends everything by `cancel` when that is prepared.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    home: watch::Receiver<Home>,
    tell: watch::Sender<Option<Departure>>,
    asked: CancellationToken,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = asked.cancelled() => {}
        // Another task broke off: the kubelet starts this speaker again.
        () = cancel.cancelled() => {
            tell.send_replace(Some(Departure::Restart));
            return Ok(());
        }
    }
    let home = home.borrow().clone();
    let workload = match tokio::time::timeout(ASK, daemon_set(client, &settings, &home.labels)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot tell whether a successor follows");
            Workload::Unknown
        }
        Err(_) => Workload::Unknown,
    };
    // Without a word of the API server, too: it may have been on this host.
    let is_deleted = matches!(workload, Workload::Stays { deleted: true, .. } | Workload::Goes);
    let host_ends = !home.going && !is_deleted && kubelet_ends(&home.kubelet).await;
    let departure = decide(home.going || host_ends, &workload);
    tracing::info!(event = "departing", ?departure, host_ends, "ending");
    tell.send_replace(Some(departure));
    if departure == Departure::Leave {
        tokio::time::sleep(HAND_OVER).await;
    }
    cancel.cancel();
    Ok(())
}

/// What makes the speakers.
#[derive(Clone, Debug, PartialEq)]
enum Workload {
    /// It is there, for pods like this; this is the node of this one, which was `deleted` or is ended by its host alone.
    Stays { pod: Box<PodSpec>, node: Box<Node>, deleted: bool },
    /// It is deleted, or being deleted.
    Goes,
    /// The API server did not tell.
    Unknown,
}

/// Without better knowledge a successor follows: an address that moves needlessly costs connections.
fn decide(going: bool, workload: &Workload) -> Departure {
    let unwanted = match workload {
        Workload::Goes => true,
        Workload::Stays { pod, node, .. } => !placement::takes(node, pod),
        Workload::Unknown => false,
    };
    if going || unwanted { Departure::Leave } else { Departure::Restart }
}

async fn daemon_set(client: Client, settings: &Settings, labels: &Labels) -> kube::Result<Workload> {
    let pod = Api::<Pod>::namespaced(client.clone(), &settings.namespace).get_opt(&settings.pod).await?;
    let Some(pod) = pod else { return Ok(Workload::Unknown) };
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let owners = pod.metadata.owner_references.unwrap_or_default();
    let Some(owner) = owners.into_iter().find(|owner| owner.kind == "DaemonSet") else {
        return Ok(Workload::Unknown);
    };
    let api = Api::<DaemonSet>::namespaced(client.clone(), &settings.namespace);
    let found = api.get_opt(&owner.name).await?.filter(|found| found.metadata.deletion_timestamp.is_none());
    let Some(found) = found else { return Ok(Workload::Goes) };
    let name = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
    let pod = Box::new(found.spec.and_then(|spec| spec.template.spec).unwrap_or_default());
    // Where the API server does not tell, what is known of the node is its labels.
    let node = Box::new(node(client, &name).await.ok().flatten().unwrap_or_else(|| labelled(name, labels)));
    Ok(Workload::Stays { pod, node, deleted })
}

async fn node(client: Client, name: &str) -> kube::Result<Option<Node>> {
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(Api::<Node>::all(client).list(&only).await?.items.pop())
}

fn labelled(name: String, labels: &Labels) -> Node {
    let labels = labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let metadata = ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() };
    Node { metadata, ..Node::default() }
}

/// Whether the kubelet ended or ends. A speaker whose pod is not deleted is ended by the kubelet, which then starts it again, or
/// by the init system of a host that shuts down, which ends the kubelet too: where the kubelet has no
/// `shutdownGracePeriod` nothing else tells.
async fn kubelet_ends(at: &[SocketAddr]) -> bool {
    if at.is_empty() {
        return false;
    }
    let mut refused = 0;
    for _ in 0..LOOKS {
        refused = if answers(at).await { 0 } else { refused + 1 };
        if refused == REFUSED {
            return true;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    false
}

/// Whether anything may listen: only a refusal shows that nothing does.
async fn answers(at: &[SocketAddr]) -> bool {
    for address in at {
        match tokio::time::timeout(BETWEEN_LOOKS, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
            _ => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_speaker_restarts_unless_its_node_or_its_daemon_set_goes() {
        let labels = [("os", "linux"), ("zone", "a")].into_iter().collect();
        let node = labelled("node1".to_owned(), &labels);
        let stays = |pairs: &[(&str, &str)]| {
            let selector = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let pod = PodSpec { node_selector: Some(selector.collect()), ..PodSpec::default() };
            Workload::Stays { pod: Box::new(pod), node: Box::new(node.clone()), deleted: true }
        };
        let tainted = {
            let taint = Taint { key: "dedicated".into(), effect: "NoExecute".into(), ..Taint::default() };
            let spec = NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() };
            let node = Box::new(Node { spec: Some(spec), ..node.clone() });
            Workload::Stays { pod: Box::default(), node, deleted: true }
        };
        for (going, workload, want) in [
            (false, stays(&[]), Departure::Restart),
            (false, stays(&[("os", "linux")]), Departure::Restart),
            (false, stays(&[("zone", "b")]), Departure::Leave),
            (false, tainted, Departure::Leave),
            (false, Workload::Goes, Departure::Leave),
            (false, Workload::Unknown, Departure::Restart),
            (true, stays(&[]), Departure::Leave),
            (true, Workload::Unknown, Departure::Leave),
        ] {
            assert_eq!(decide(going, &workload), want, "{going} {workload:?}");
        }
    }
    #[tokio::test]
    async fn only_a_kubelet_that_refuses_everywhere_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let open = listener.local_addr().expect("its address");
        let gone = TcpListener::bind("127.0.0.2:0").await.expect("a socket");
        let closed = gone.local_addr().expect("its address");
        drop(gone);
        assert!(!kubelet_ends(&[]).await, "nothing is known");
        assert!(!kubelet_ends(&[open]).await);
        assert!(!kubelet_ends(&[closed, open]).await, "it listens on one of its addresses");
        assert!(kubelet_ends(&[closed]).await);
        let only = [open];
        let ends_later = kubelet_ends(&only);
        let later = async {
            tokio::time::sleep(LOOKS / 2 * BETWEEN_LOOKS).await;
            drop(listener);
        };
        assert!(tokio::join!(ends_later, later).0, "it ends while it is looked for");
    }
}
