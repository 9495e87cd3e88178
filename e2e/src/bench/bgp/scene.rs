//! What the speaker finds: an API server with Services, pools and peers, and the routers' configuration.

use std::{
    net::Ipv4Addr,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use metallb_e2e::plane::{
    NAMESPACE, Plane,
    objects::{api, create},
};
use serde_json::{Value, json};

/// The speaker's address.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Namespace of the Services.
const SERVICES: &str = "default";
/// Requests that are under way at one time.
const PARALLEL: usize = 16;
const POOLS: &str = "metallb.io/v1beta1";

/// Addresses of the routers.
pub(crate) fn routers(peers: u8) -> impl Iterator<Item = Ipv4Addr> {
    (1..=peers).map(|number| Ipv4Addr::new(10, 99, 1, number))
}

fn endpoints(address: &str, serves: bool) -> Value {
    json!([{ "addresses": [address], "nodeName": "node1", "conditions": { "ready": serves } }])
}

/// A control plane with a pool, an advertisement and peers.
pub(crate) struct Scene {
    pub(crate) plane: Plane,
    client: Client,
    pub(crate) family: u8,
    pub(crate) peers: u8,
    pub(crate) statuses: bool,
}

impl Scene {
    pub(crate) async fn start(family: u8, peers: u8, statuses: bool) -> Result<Self> {
        let plane = Plane::start().await?;
        let client = plane.client().await?;
        let scene = Self { plane, client, family, peers, statuses };
        create(&scene.client, "v1", "Node", "", json!({ "metadata": { "name": "node1" } })).await?;
        if statuses {
            scene.own_pod().await?;
        }
        let pool = json!({ "addresses": ["198.18.0.0/15", "2001:db8::/64"] });
        scene.apply(POOLS, "IPAddressPool", "bench", pool).await?;
        scene.advertise("64512:1").await?;
        for (number, router) in routers(peers).enumerate() {
            let peer = json!({
                "myASN": 64512, "peerASN": 64513, "peerAddress": router, "dualStackAddressFamily": true,
            });
            scene.apply("metallb.io/v1beta2", "BGPPeer", &format!("router-{number}"), peer).await?;
        }
        Ok(scene)
    }

    /// The pod that the speaker takes for its own, which its status objects belong to.
    async fn own_pod(&self) -> Result<()> {
        let account = json!({ "metadata": { "name": "default" } });
        create(&self.client, "v1", "ServiceAccount", NAMESPACE, account).await?;
        let pod = json!({
            "metadata": { "name": "controller-bench" },
            "spec": {
                "nodeName": "node1", "automountServiceAccountToken": false,
                "containers": [{ "name": "speaker", "image": "speaker:1" }],
            },
        });
        create(&self.client, "v1", "Pod", NAMESPACE, pod).await
    }

    /// BIRD as all the routers, which have so many routes of their own to announce.
    pub(crate) fn bird(&self, routes: u32) -> String {
        let mut text = "router id 10.99.1.1;
protocol device {}
template bgp speaker {
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
"
        .to_owned();
        if routes > 0 {
            text = text.replace(
                "ipv4 { import all; export none; };",
                "ipv4 { import all; export where source = RTS_STATIC; };",
            );
            text.push_str("protocol static { ipv4;\n");
            for number in 0..routes {
                let [_, high, middle, low] = number.to_be_bytes();
                text.push_str(&format!("route {}.{middle}.{low}.0/24 blackhole;\n", high + 1));
            }
            text.push_str("}\n");
        }
        for router in routers(self.peers) {
            let [.., number] = router.octets();
            // BIRD has one session with an address and a port at a time. The port is used by nobody: BIRD only listens.
            let port = 1000 + u16::from(number);
            text.push_str(&format!(
                "protocol bgp router{number} from speaker {{\n  local {router} as 64513;\n  \
                 neighbor {NODE} port {port} as 64512;\n  passive;\n}}\n"
            ));
        }
        text
    }

    /// Announces everything, with a community.
    pub(crate) async fn advertise(&self, community: &str) -> Result<()> {
        self.apply(POOLS, "BGPAdvertisement", "bench", json!({ "communities": [community] })).await
    }

    pub(crate) async fn advertise_nothing(&self) -> Result<()> {
        let advertisements = api(&self.client, POOLS, "BGPAdvertisement", NAMESPACE);
        advertisements.delete("bench", &DeleteParams::default()).await?;
        Ok(())
    }

    async fn apply(&self, version: &str, kind: &str, name: &str, spec: Value) -> Result<()> {
        let object =
            json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec });
        let objects = api(&self.client, version, kind, NAMESPACE);
        objects.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    pub(crate) async fn services(&self, numbers: Range<usize>) -> Result<()> {
        let services = stream::iter(numbers).map(|number| self.service(number));
        services.buffer_unordered(PARALLEL).try_collect::<()>().await
    }

    /// A Service with an address and an endpoint that serves.
    pub(crate) async fn service(&self, number: usize) -> Result<()> {
        self.service_with(number, true).await
    }

    /// The address of a Service, and of its endpoint; and their family.
    fn addresses(&self, number: usize) -> (String, &'static str, &'static str) {
        let (high, low) = (number / 256, number % 256);
        match self.family {
            4 => (format!("198.18.{high}.{low}"), "10.0.0.1", "IPv4"),
            _ => (format!("2001:db8::{high:x}:{low:x}"), "fd00::1", "IPv6"),
        }
    }

    /// The address of a Service.
    pub(crate) fn address(&self, number: usize) -> String {
        self.addresses(number).0
    }

    /// A Service with an address and an endpoint, which serves or does not.
    pub(crate) async fn service_with(&self, number: usize, serves: bool) -> Result<()> {
        let name = format!("web-{number}");
        let (address, endpoint, family) = self.addresses(number);
        let slice = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": family, "ports": [], "endpoints": endpoints(endpoint, serves),
        });
        create(&self.client, "discovery.k8s.io/v1", "EndpointSlice", SERVICES, slice).await?;
        let service = json!({
            "metadata": { "name": name },
            "spec": {
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ipFamilies": [family],
                "ipFamilyPolicy": "SingleStack", "ports": [{ "port": 80 }],
            },
        });
        create(&self.client, "v1", "Service", SERVICES, service).await?;
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } });
        let services: Api<Service> = Api::namespaced(self.client.clone(), SERVICES);
        services.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Lets the endpoint of a Service serve.
    pub(crate) async fn serve(&self, number: usize) -> Result<()> {
        let (_, endpoint, _) = self.addresses(number);
        let slices = api(&self.client, "discovery.k8s.io/v1", "EndpointSlice", SERVICES);
        let patch = Patch::Merge(json!({ "endpoints": endpoints(endpoint, true) }));
        slices.patch(&format!("web-{number}"), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    pub(crate) async fn delete_service(&self, number: usize) -> Result<()> {
        for (version, kind) in [("v1", "Service"), ("discovery.k8s.io/v1", "EndpointSlice")] {
            let objects = api(&self.client, version, kind, SERVICES);
            objects.delete(&format!("web-{number}"), &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Waits until a ServiceBGPStatus is there for each of so many Services.
    pub(crate) async fn until_told(&self, count: usize, limit: Duration) -> Result<()> {
        let statuses = api(&self.client, POOLS, "ServiceBGPStatus", NAMESPACE);
        let first = ListParams::default().limit(1);
        let started = Instant::now();
        loop {
            let list = statuses.list_metadata(&first).await?;
            let left = usize::try_from(list.metadata.remaining_item_count.unwrap_or_default())?;
            let found = left + list.items.len();
            if found == count {
                return Ok(());
            }
            if started.elapsed() > limit {
                bail!("{found} statuses after {} s, and not {count}", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
