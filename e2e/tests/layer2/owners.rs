//! Layer 2 in full: who may announce, what moves and what does not.

use std::{
    fs::{self, File},
    net::{IpAddr, UdpSocket},
    ops::RangeInclusive,
    process::Stdio,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use metallb_core::election::{Candidate, elect};
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{on, output},
    layout,
    observe::{OPERATOR, address, apply, condition, fetch, get, kube, node_beside, owner, who_has},
    options::{self, Undo},
    outage::{Client, enter},
    power::{self, Mode},
    wire::Watch,
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};

use crate::fixture::{Scene, eventually};

pub(crate) fn served(scene: &Scene, service: &str, spec: &str) -> IpAddr {
    scene.service(service, spec);
    let address = address(scene.name, service).unwrap();
    eventually("an answer", 20, || fetch(address).map(drop));
    address
}

pub(crate) fn owned_by(address: IpAddr, node: &str) {
    eventually(&format!("{address} on {node}"), 10, || {
        let now = owner(address)?;
        ensure!(now == node, "{now}");
        Ok(())
    });
}

pub(crate) fn other_than(address: IpAddr, node: &str) -> String {
    let mut found = String::new();
    eventually(&format!("{address} on another node than {node}"), 10, || {
        found = owner(address)?;
        ensure!(found != node, "{found}");
        Ok(())
    });
    found
}

#[test]
fn a_cordoned_node_gives_its_address_away_and_with_never_it_does_not_return() {
    let scene = Scene::new("drain", "[172.22.0.220/32]");
    let _options =
        options::layer2(r#"{"drainPolicy":"Move","failback":"Never"}"#, "--drain-policy=Move").unwrap();
    let address = served(&scene, "web", "");
    let before = owner(address).unwrap();
    let (watch, client) = (Watch::start(address).unwrap(), Client::patient(address));
    let uncordon = {
        let before = before.clone();
        Undo(move || drop(kube(&format!("uncordon {before}"))))
    };
    kube(&format!("cordon {before}")).unwrap();
    let after = other_than(address, &before);
    drop(uncordon);
    // It stays, also while every speaker is replaced, which know nothing of before but the record.
    kube(&format!("-n {NAMESPACE} delete pod -l app=metallb,component=speaker")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    owned_by(address, &after);
    let account = watch.stop().unwrap();
    println!("{address}: {account:?}");
    assert_eq!(client.outages().unwrap(), Vec::<Duration>::new());
    assert_eq!(account.owners, [before, after]);
    assert!(account.contested.as_millis() <= 300, "{account:?}");
}

#[test]
fn a_kubelet_that_stands_still_moves_nothing() {
    let scene = Scene::new("kubelet", "[172.22.0.221/32]");
    let address = served(&scene, "web", "");
    let before = owner(address).unwrap();
    let (watch, client) = (Watch::start(address).unwrap(), Client::patient(address));
    let go_on = {
        let before = before.clone();
        Undo(move || drop(power::signal(&before, "kubelet", Signal::SIGCONT)))
    };
    power::signal(&before, "kubelet", Signal::SIGSTOP).unwrap();
    let ready = || condition(&get(&["node", &before]).unwrap(), "Ready").unwrap().0;
    eventually("the node to be not Ready", 90, || {
        let ready = ready();
        ensure!(ready != "True", "{ready}");
        Ok(())
    });
    assert_eq!(owner(address).unwrap(), before);
    drop(go_on);
    eventually("the node to be Ready", 60, || {
        let ready = ready();
        ensure!(ready == "True", "{ready}");
        Ok(())
    });
    let account = watch.stop().unwrap();
    assert_eq!(account.owners, [before]);
    // A single packet may be lost in some 20,000 connects, and is sent again; a second one may not.
    let outages = client.outages().unwrap();
    println!("{address}: {outages:?}");
    assert!(outages.iter().all(|outage| outage.as_millis() < 1500), "{outages:?}");
}

/// A pool that is announced by the nodes that `more`, YAML of its L2Advertisement in flow style, selects.
fn selected(name: &str, addresses: &str, more: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{addresses: {addresses}, autoAssign: false}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{ipAddressPools: [{name}]{more}}}\n"
    )
}

/// Those of these addresses that a node is elected for.
fn elected(node: &str, last: RangeInclusive<u8>) -> Vec<IpAddr> {
    let candidates = ["node1", "node2", "node3"].map(|node| Candidate { node, preference: 0 });
    let addresses = last.map(|last| IpAddr::from([172, 22, 0, last]));
    addresses.filter(|address| elect(&candidates, *address) == Some(node)).collect()
}

#[test]
fn a_node_that_lost_the_api_server_alone_leaves_its_address_to_the_one_that_knows_better() {
    let (name, addresses) = ("blind", "[172.22.0.238-172.22.0.245]");
    let scene = Scene::of(name, &selected(name, addresses, ""));
    // The operator's webhook has to answer.
    let before = node_beside(OPERATOR).unwrap();
    let address = elected(before, 238..=245)[0];
    assert_eq!(served(&scene, "web", &format!(", loadBalancerIP: {address}")), address);
    owned_by(address, before);
    let watch = Watch::start(address).unwrap();
    power::blind(before).unwrap();
    let inform = Undo(|| drop(power::inform()));
    let others = format!("{{key: kubernetes.io/hostname, operator: NotIn, values: [{before}]}}");
    let others = format!(", nodeSelectors: [{{matchExpressions: [{others}]}}]");
    apply(&selected(name, addresses, &others)).unwrap();
    let left = || {
        let mut after = String::new();
        eventually("one other node to answer", 30, || {
            after = owner(address)?;
            ensure!(after != before, "{after}");
            Ok(())
        });
        after
    };
    let after = left();
    drop(inform);
    kube(&format!("wait node/{before} --for=condition=Ready --timeout=60s")).unwrap();
    assert_eq!(left(), after);
    let account = watch.stop().unwrap();
    println!("{address}: {account:?}");
    assert_eq!(account.owners, [before, &after]);
    // It knew nothing of it: for a time both answered.
    assert!((3..20).contains(&account.contested.as_secs()), "{account:?}");
}

#[test]
fn a_new_service_is_not_left_to_a_node_that_lost_the_api_server() {
    let scene = Scene::new("unaware", "[172.22.0.238-172.22.0.245]");
    // Without the controller nothing new gets an address.
    let before = node_beside("app=metallb,component=controller").unwrap();
    let &[old, new, ..] = elected(before, 238..=245).as_slice() else { panic!("too few addresses") };
    assert_eq!(served(&scene, "web", &format!(", loadBalancerIP: {old}")), old);
    owned_by(old, before);
    let watch = Watch::start(old).unwrap();
    power::blind(before).unwrap();
    let inform = Undo(|| drop(power::inform()));
    scene.service("late", &format!(", loadBalancerIP: {new}"));
    eventually("another node to announce the new one", 60, || {
        let now = owner(new)?;
        ensure!(now != before, "{now}");
        fetch(new).map(drop)
    });
    drop(inform);
    kube(&format!("wait node/{before} --for=condition=Ready --timeout=60s")).unwrap();
    eventually("the elected node to announce it", 30, || {
        let now = owner(new)?;
        ensure!(now == before, "{now}");
        Ok(())
    });
    let account = watch.stop().unwrap();
    println!("{old}: {account:?}");
    assert_eq!(account.owners, [before]);
}

#[test]
fn a_node_that_is_taken_out_of_service_gives_its_address_away() {
    let scene = Scene::new("outofservice", "[172.22.0.222/32]");
    let address = served(&scene, "web", "");
    let before = owner(address).unwrap();
    let taint = "node.kubernetes.io/out-of-service";
    let _undo = {
        let before = before.clone();
        Undo(move || drop(kube(&format!("taint node {before} {taint}-"))))
    };
    kube(&format!("taint node {before} {taint}=nodeshutdown:NoSchedule")).unwrap();
    other_than(address, &before);
}

#[test]
fn a_node_without_a_network_announces_nothing_until_it_has_one_again() {
    let scene = Scene::new("networkless", "[172.22.0.248/32]");
    let address = served(&scene, "web", "");
    let before = owner(address).unwrap();
    let network = |node: &str, unavailable: &str| {
        let condition = format!(
            "{{\"type\":\"NetworkUnavailable\",\"status\":\"{unavailable}\",\"reason\":\"Tried\",\"message\":\"tried\"}}"
        );
        let patch = format!("{{\"status\":{{\"conditions\":[{condition}]}}}}");
        kube(&format!("patch node {node} --subresource=status -p {patch}"))
    };
    let _undo = {
        let before = before.clone();
        Undo(move || drop(network(&before, "False")))
    };
    network(&before, "True").unwrap();
    other_than(address, &before);
    network(&before, "False").unwrap();
    owned_by(address, &before);
}

#[test]
fn addresses_move_while_controller_and_operator_are_down() {
    let scene = Scene::new("alone", "[172.22.0.223/32]");
    // With Cluster, some connections would go to the lost node's pod until the cluster knows that it is lost.
    let address = served(&scene, "web", ", externalTrafficPolicy: Local");
    let before = owner(address).unwrap();
    let operator = "metallb-operator-controller-manager";
    let scale = |deployment: &str, replicas: u8| {
        kube(&format!("-n {NAMESPACE} scale deployment/{deployment} --replicas={replicas}"))
    };
    let _undo = {
        let before = before.clone();
        Undo(move || {
            let _ = power::on(&before);
            let _ = scale("controller", 1);
            let _ = scale(operator, 1);
            let _ = kube(&format!("-n {NAMESPACE} rollout status deployment/{operator} --timeout=60s"));
        })
    };
    scale(operator, 0).unwrap();
    eventually("the operator to be gone", 30, || {
        let pods = kube(&format!("-n {NAMESPACE} get pod -l control-plane=controller-manager -o name"))?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(())
    });
    scale("controller", 0).unwrap();
    eventually("the controller to be gone", 30, || {
        let pods = kube(&format!("-n {NAMESPACE} get pod -l app=metallb,component=controller -o name"))?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(())
    });
    let client = Client::start(address);
    power::off(&before, Mode::Dark).unwrap();
    other_than(address, &before);
    eventually("an answer", 10, || fetch(address).map(drop));
    let outages = client.outages().unwrap();
    println!("{address}: {outages:?}");
    assert!(outages.first().is_some_and(|longest| longest.as_secs() < 3), "{outages:?}");
}

/// A pool of its own for a Service, announced as `advertisement` says.
pub(crate) fn advertised(scene: &Scene, addresses: &str, advertisement: &str) -> Undo<impl FnMut() + use<>> {
    let name = format!("{}-own", scene.name);
    apply(&selected(&name, &format!("[{addresses}]"), &format!(", {advertisement}"))).unwrap();
    Undo(move || {
        let _ = kube(&format!("-n {NAMESPACE} delete l2advertisement,ipaddresspool {name}"));
    })
}

fn service_in(scene: &Scene, service: &str, labels: &str, spec: &str) {
    let (name, pool) = (scene.name, format!("{}-own", scene.name));
    apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: {name}, labels: {{{labels}}}, \
         annotations: {{metallb.io/address-pool: {pool}, metallb.io/allow-shared-ip: {name}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: web}}{spec}}}\n"
    ))
    .unwrap();
}

#[test]
fn node_and_interface_selectors_decide_who_announces() {
    let scene = Scene::new("selected", "[172.22.0.224/32]");
    for node in ["node1", "node2", "node3"] {
        let by_name = format!("nodeSelectors: [{{matchLabels: {{kubernetes.io/hostname: {node}}}}}]");
        let _pool = advertised(&scene, "172.22.0.225/32", &format!("{by_name}, interfaces: [eth0]"));
        service_in(&scene, "picked", "", ", ports: [{port: 80, targetPort: 8080}]");
        let address = address(scene.name, "picked").unwrap();
        owned_by(address, node);
    }
    let _pool = advertised(&scene, "172.22.0.225/32", "interfaces: [nowhere0]");
    eventually("nobody to announce on an interface that no node has", 10, || {
        let answers = who_has("172.22.0.225".parse()?)?;
        ensure!(answers.is_empty(), "{answers:?}");
        Ok(())
    });
}

#[test]
fn a_pool_that_is_made_again_within_seconds_is_announced_all_the_while() {
    let scene = Scene::new("reborn", "[172.22.0.246/32]");
    let _pool = advertised(&scene, "172.22.0.247/32", "interfaces: [eth0]");
    service_in(&scene, "web", "", ", ports: [{port: 80, targetPort: 8080}]");
    let address = address(scene.name, "web").unwrap();
    eventually("an answer", 20, || fetch(address).map(drop));
    let watch = Watch::start(address).unwrap();
    let answered = |times: usize| {
        let before = watch.answers().unwrap().len();
        eventually("further answers", 5, || {
            let answers = watch.answers()?.len() - before;
            ensure!(answers >= times, "{answers}");
            Ok(())
        });
    };
    kube(&format!("-n {NAMESPACE} delete ipaddresspool reborn-own")).unwrap();
    answered(200);
    let _again = advertised(&scene, "172.22.0.247/32", "interfaces: [eth0]");
    answered(200);
    assert_eq!(metallb_e2e::observe::addresses(scene.name, "web").unwrap(), [address]);
    let account = watch.stop().unwrap();
    println!("{account:?}");
    assert!(account.owners.len() == 1 && account.silence < Duration::from_millis(500), "{account:?}");

    // For good: a Service that keeps its address keeps it unannounced.
    kube("-n reborn annotate service web metallb.io/keep-address=true").unwrap();
    kube(&format!("-n {NAMESPACE} delete ipaddresspool reborn-own")).unwrap();
    eventually("nobody to announce it", 20, || {
        let answers = who_has(address)?;
        ensure!(answers.is_empty(), "{answers:?}");
        Ok(())
    });
    assert_eq!(metallb_e2e::observe::addresses(scene.name, "web").unwrap(), [address]);
}

#[test]
fn a_service_selector_decides_what_is_announced() {
    let scene = Scene::new("labelled", "[172.22.0.226/32]");
    let _pool = advertised(&scene, "172.22.0.227/32", "serviceSelectors: [{matchLabels: {announce: 'yes'}}]");
    let name = scene.name;
    let service = |labels: &str| {
        apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {name}, labels: {{{labels}}}, \
             annotations: {{metallb.io/address-pool: {name}-own}}}}\n\
             spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
        ))
        .unwrap();
        address(name, "web").unwrap()
    };
    let address = service("announce: 'yes'");
    eventually("an answer", 20, || fetch(address).map(drop));
    service("announce: 'no'");
    eventually("nobody to announce it", 10, || {
        let answers = who_has(address)?;
        ensure!(answers.is_empty(), "{answers:?}");
        Ok(())
    });
}

/// Answers the first datagram to UDP port 8081 of a pod, from within the pod's network, with what it holds; ends with
/// whom it is from. No program of busybox does that.
fn echo_once(pod: IpAddr) -> JoinHandle<Result<IpAddr>> {
    std::thread::spawn(move || {
        let processes = fs::read_dir("/proc")?.flatten();
        let mut bound = processes.filter_map(|process| {
            let path = process.path();
            let is_pods = fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == "busybox");
            let network = is_pods.then(|| File::open(path.join("ns/net")).ok())??;
            setns(network, CloneFlags::CLONE_NEWNET).ok()?;
            // Only in its own network is the address there.
            UdpSocket::bind((pod, 8081)).ok()
        });
        let socket = bound.next().context("no process of the pod")?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut bytes = [0; 64];
        let (length, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..length], from)?;
        Ok(from.ip())
    })
}

/// What host client hears when it sends `text` by UDP.
fn ask_by_udp(address: IpAddr, text: &'static str) -> Result<String> {
    let asking = std::thread::spawn(move || {
        enter(&layout::client())?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(text.as_bytes(), (address, 53))?;
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    });
    asking.join().map_err(|_| anyhow!("the client's thread ended early"))?
}

#[test]
fn tcp_and_udp_reach_one_service_and_with_local_its_pod_sees_the_client() {
    let scene = Scene::new("both", "[172.22.0.228/32]");
    let name = scene.name;
    apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: echo, namespace: {name}, labels: {{app: echo}}}}\n\
         spec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: echo\n    image: lab.local/busybox:1\n    \
         imagePullPolicy: Never\n    command: [busybox, httpd, -f, -v, -p, '8080', -h, /bin]\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: both, namespace: {name}, annotations: \
         {{metallb.io/address-pool: {name}}}}}\n\
         spec: {{type: LoadBalancer, externalTrafficPolicy: Local, selector: {{app: echo}}, ports: \
         [{{name: tcp, port: 53, targetPort: 8080}}, {{name: udp, protocol: UDP, port: 53, targetPort: 8081}}]}}\n"
    ))
    .unwrap();
    kube(&format!("-n {name} wait pod/echo --for=condition=Ready --timeout=30s")).unwrap();
    let address = address(name, "both").unwrap();
    let client: IpAddr = layout::client().v4().parse().unwrap();

    let pod =
        get(&["-n", name, "pod", "echo"]).unwrap()["status"]["podIP"].as_str().unwrap().parse().unwrap();
    let echo = echo_once(pod);
    eventually("an echo by UDP", 20, || {
        let answer = ask_by_udp(address, "hello")?;
        ensure!(answer == "hello", "{answer:?}");
        Ok(())
    });
    assert_eq!(echo.join().unwrap().unwrap(), client);

    eventually("an answer by TCP", 20, || {
        output(
            on("client", "curl")
                .args(["-sS", "--fail", "--max-time", "2", &format!("http://{address}:53/busybox")])
                .stdout(Stdio::null()),
        )
        .map(drop)
    });
    let log = kube(&format!("-n {name} logs echo")).unwrap();
    assert!(log.contains(&client.to_string()), "{log}");
}

#[test]
fn services_that_share_an_address_are_on_one_node_and_move_together() {
    let scene = Scene::new("shared", "[172.22.0.229/32]");
    let _pool = advertised(&scene, "172.22.0.230/32", "");
    service_in(&scene, "one", "", ", ports: [{port: 80, targetPort: 8080}]");
    service_in(&scene, "two", "", ", ports: [{port: 81, targetPort: 8080}]");
    let shared = address(scene.name, "one").unwrap();
    assert_eq!(address(scene.name, "two").unwrap(), shared);
    let both = || -> Result<()> {
        for port in [80, 81] {
            output(on("client", "curl").args([
                "-sS",
                "--max-time",
                "2",
                &format!("http://{shared}:{port}/"),
            ]))?;
        }
        Ok(())
    };
    eventually("answers on both ports", 20, both);
    let before = owner(shared).unwrap();
    let exclude = "node.kubernetes.io/exclude-from-external-load-balancers";
    let _undo = {
        let before = before.clone();
        Undo(move || drop(kube(&format!("label node {before} {exclude}-"))))
    };
    kube(&format!("label node {before} {exclude}=")).unwrap();
    other_than(shared, &before);
    eventually("answers on both ports", 10, both);
}

#[test]
fn both_families_of_a_service_are_on_one_node() {
    let scene = Scene::new("dual", "[172.22.0.231/32, fd00:22::331/128]");
    scene.service("web", ", ipFamilyPolicy: RequireDualStack");
    let found = || metallb_e2e::observe::addresses(scene.name, "web");
    eventually("two addresses", 15, || {
        let found = found()?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(())
    });
    let owners: Vec<String> = found()
        .unwrap()
        .into_iter()
        .map(|address| {
            eventually("an answer", 20, || fetch(address).map(drop));
            owner(address).unwrap()
        })
        .collect();
    assert_eq!(owners[0], owners[1]);
}

#[test]
fn the_speaker_tells_what_it_knows() {
    let scene = Scene::new("facts", "[172.22.0.232/32]");
    let address = served(&scene, "web", "");
    let node = owner(address).unwrap();
    let pod = kube(&format!(
        "-n {NAMESPACE} get pod -l app=metallb,component=speaker --field-selector=spec.nodeName={node} -o name"
    ))
    .unwrap();
    let facts = kube(&format!("-n {NAMESPACE} exec {} -- /speaker --facts", pod.trim())).unwrap();
    println!("{facts}");
    for line in [
        format!("node         {node}"),
        "kube-proxy   mode iptables, strictARP false".to_owned(),
        "interface    lo: does not announce: excluded by name".to_owned(),
        "interface    eth0: announces IPv4 and IPv6".to_owned(),
        format!("announced    {address} on all interfaces"),
    ] {
        assert!(facts.lines().any(|found| found.starts_with(&line)), "{line:?} is missing");
    }

    // The same for programs, beside the metrics and for those who may read them.
    let token = kube(&format!("-n {NAMESPACE} create token metrics-reader")).unwrap();
    let ip = (1..=3).map(layout::node).find(|host| host.name == node).unwrap().v4();
    let ask = |more: &[&str]| {
        output(on("cp", "curl").args(["-sSfk"]).args(more).arg(format!("https://{ip}:9120/facts")))
    };
    let told = ask(&["-H", &format!("Authorization: Bearer {}", token.trim())]).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["node"], &told["kubeProxy"]["mode"]), (&node.into(), &"iptables".into()), "{told}");
    assert!(!told["announced"][address.to_string()].is_null(), "{told}");
    let refused = ask(&[]).unwrap_err().to_string();
    assert!(refused.contains("401"), "{refused}");
}
