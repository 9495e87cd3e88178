//! `kubectl metallb` against a real API server whose objects are known, so that whole answers can be compared.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::Result;
use metallb_e2e::{cluster::checkout, exec::output, plane::Plane};
use serde_json::{Value, json};

/// What there is: three nodes, of which node3 has no speaker; a pool with two addresses, of which one is taken; a pool
/// that overlaps it; a Service that node2 announces, one that waits, and one of another load balancer.
const OBJECTS: &str = include_str!("plugin/objects.yaml");
/// The same objects' statuses, which are written apart.
const STATUSES: &str = include_str!("plugin/statuses.yaml");

struct Scene {
    plane: Plane,
}

impl Scene {
    async fn new() -> Result<Self> {
        let scene = Self { plane: Plane::start().await? };
        scene.plane.install().await?;
        scene.apply(OBJECTS, &[])?;
        scene.apply(STATUSES, &["--subresource=status", "--force-conflicts"])?;
        Ok(scene)
    }

    fn apply(&self, yaml: &str, flags: &[&str]) -> Result<()> {
        let file = self.file("objects.yaml", yaml)?.display().to_string();
        self.plane.kubectl(&[&["apply", "--server-side", "-f", &file], flags].concat()).map(drop)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.plane.path(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// The plugin, as kubectl runs it.
    fn plugin(&self, arguments: &[&str]) -> Output {
        let mut plugin = Command::new(checkout().join("target/images/bin/kubectl-metallb"));
        plugin.env("KUBECONFIG", self.plane.path("load")).args(arguments);
        plugin.output().expect("run `make images` first")
    }

    /// Exit status and standard output.
    fn ask(&self, line: &str) -> (i32, String) {
        let done = self.plugin(&line.split_whitespace().collect::<Vec<_>>());
        assert!(done.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        (done.status.code().unwrap_or(-1), String::from_utf8(done.stdout).unwrap())
    }

    /// What the plugin writes to a terminal, with `NO_COLOR` set or not.
    fn on_a_terminal(&self, line: &str, no_colour: Option<&str>) -> String {
        let plugin = checkout().join("target/images/bin/kubectl-metallb");
        let mut script = Command::new("script");
        script.env("KUBECONFIG", self.plane.path("load")).env_remove("NO_COLOR").stdin(Stdio::null());
        script.envs(no_colour.map(|value| ("NO_COLOR", value)));
        script.args(["-qc", &format!("{} {line}", plugin.display()), "/dev/null"]);
        String::from_utf8(script.output().unwrap().stdout).unwrap()
    }

    fn json(&self, line: &str) -> (i32, Value) {
        let (status, text) = self.ask(&format!("{line} -o json"));
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}")))
    }
}

#[tokio::test]
async fn each_question_is_answered_in_text_and_json_and_by_the_exit_status() {
    let scene = Scene::new().await.unwrap();

    let (status, said) = scene.json("status");
    assert_eq!(
        (status, &said["problems"], &said["services"], &said["sessions"], &said["components"][0]["version"]),
        (
            1,
            &json!([
                "controller: IPAddressPool \"overlapping\": spec.addresses[0]: 192.0.2.1/32 overlaps 192.0.2.0/31"
            ]),
            &json!({ "served": 1, "waiting": 1 }),
            // Of node2 it is not known that it is Ready.
            &json!({ "wanted": 1, "established": 1 }),
            &json!("0.1.0"),
        ),
        "{said:#}"
    );

    let (status, said) = scene.json("pools");
    assert_eq!(status, 1);
    assert_eq!(said[0]["name"], "lan");
    assert_eq!(said[0]["ipv4"], json!({ "total": "2", "used": "1", "free": "1" }));
    assert_eq!(said[0]["advertisedBy"], json!(["L2Advertisement/lan"]));
    let problem = said[1]["problems"][0].as_str().unwrap();
    assert!(problem.contains("spec.addresses[0]") && problem.contains("lan"), "{problem}");

    let (status, text) = scene.ask("services");
    let lines: Vec<Vec<&str>> = text.lines().take(3).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        (status, &lines[1..]),
        (
            1,
            &[
                vec!["demo", "waits", "-", "-", "Waiting", "-", "-"],
                vec!["demo", "web", "192.0.2.0", "lan", "Served", "node2", "-"],
            ][..]
        ),
        "{text}"
    );
    assert!(text.contains("demo/waits: unknown pool \"nowhere\""), "{text}");
    assert!(!text.contains('\u{1b}'), "colour is for terminals: {text:?}");
    assert_eq!(scene.json("services -n elsewhere"), (0, json!([])));
    for (no_colour, is_coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let text = scene.on_a_terminal("services", no_colour);
        assert!(text.contains("Waiting"), "{text:?}");
        assert_eq!(text.contains('\u{1b}'), is_coloured, "NO_COLOR={no_colour:?}: {text:?}");
    }

    let (status, said) = scene.json("explain demo/web");
    assert_eq!(
        (status, &said["verdict"], &said["shown"], &said["layer2"]),
        (
            0,
            &json!("Keep"),
            &json!(["192.0.2.0"]),
            &json!({ "should": "node2", "why": null, "says": ["node2"] })
        )
    );
    assert_eq!(scene.ask("explain -n demo web"), scene.ask("explain demo/web"));
    let (status, said) = scene.json("explain demo/waits");
    assert_eq!(
        (status, &said["verdict"], &said["reason"]),
        (1, &json!("Refuse"), &json!("UnknownPool")),
        "{said:#}"
    );

    let (status, said) = scene.json("facts node3");
    assert_eq!((status, &said["problems"]), (1, &json!(["no speaker runs here"])));
    let (status, said) = scene.json("facts node2");
    assert_eq!(
        (status, &said["announces"], &said["speaker"]["ready"]),
        (0, &json!([{ "service": "demo/web", "protocol": "layer2", "at": ["eth0"] }]), &json!(true)),
        "{said:#}"
    );

    let (status, said) = scene.json("drain-preview node2");
    assert_eq!((status, &said["services"][0]["layer2To"]), (0, &json!("node1")), "{said:#}");
    assert_eq!(scene.ask("drain-preview node1"), (0, "node1 announces nothing\n".to_owned()));

    // Who should announce is told of BGP too, and that another host has the address is known from the Service alone.
    scene
        .apply(
            "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\n\
             metadata: {name: lan, namespace: metallb-system}\nspec: {ipAddressPools: [lan]}\n",
            &[],
        )
        .unwrap();
    let (_, said) = scene.json("explain demo/web");
    assert_eq!(said["bgpShould"], json!({ "node1": ["router"], "node2": ["router"] }), "{said:#}");
    let (_, text) = scene.ask("explain demo/web");
    assert!(text.contains("BGP          should be announced by node1 to router; node2 to router"), "{text}");
    scene
        .apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: demo}\nstatus: {conditions: [{\
             type: metallb.io/Announced, status: 'False', reason: Conflict, message: 02:00:00:00:00:09 has it, \
             lastTransitionTime: '2026-01-01T00:00:00Z'}]}\n",
            &["--subresource=status", "--force-conflicts", "--field-manager=speaker"],
        )
        .unwrap();
    let (_, said) = scene.json("explain demo/web");
    assert_eq!(said["whyNotAnnounced"], "Conflict: 02:00:00:00:00:09 has it", "{said:#}");
}

#[tokio::test]
async fn a_bgp_session_that_does_not_stand_is_told_with_its_cause() {
    let scene = Scene::new().await.unwrap();
    let (status, said) = scene.json("facts node1");
    assert_eq!(
        (status, &said["peers"], &said["sessions"][0]["state"]),
        (0, &json!(["router"]), &json!("Established")),
        "{said:#}"
    );
    scene
        .apply(
            "apiVersion: frrk8s.metallb.io/v1beta1\nkind: BGPSessionState\n\
             metadata: {name: node1-router, namespace: metallb-system}\n\
             status: {bgpStatus: Active, bfdStatus: N/A, node: node1, peer: 192.0.2.254, peerName: router, \
             lastError: connection refused}\n",
            &["--subresource=status", "--force-conflicts"],
        )
        .unwrap();
    let problem = "the BGP session of node1 with BGPPeer router (192.0.2.254) is Active: connection refused";
    let (status, said) = scene.json("facts node1");
    assert_eq!((status, &said["problems"]), (1, &json!([problem])), "{said:#}");
    let (status, text) = scene.ask("facts node1");
    let row: Vec<&str> =
        text.lines().find(|line| line.starts_with("router ")).unwrap().split_whitespace().collect();
    assert_eq!((status, &row[..5]), (1, &["router", "192.0.2.254", "Active", "N/A", "-"][..]), "{text}");
    let (status, text) = scene.ask("status");
    assert_eq!(status, 1);
    assert!(text.contains("0 of 1 BGP sessions stand") && text.contains(problem), "{text}");
}

#[tokio::test]
async fn files_are_judged_with_and_without_the_cluster() {
    let scene = Scene::new().await.unwrap();
    let moved = scene
        .file(
            "moved.yaml",
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
             metadata: {name: lan, namespace: metallb-system}\nspec: {addresses: [192.0.2.8/31]}\n",
        )
        .unwrap();
    let wrong = scene
        .file(
            "wrong.yaml",
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: bad}\n\
             spec: {addresses: [192.0.2.9]}\n",
        )
        .unwrap();
    let (moved, wrong) = (moved.display(), wrong.display());
    assert_eq!(scene.json(&format!("check -f {moved}")), (0, json!({ "objects": 1, "problems": [] })));
    let problem =
        "IPAddressPool \"bad\": spec.addresses[0]: 192.0.2.9 is a single address: write 192.0.2.9/32";
    assert_eq!(scene.json(&format!("check -f {wrong}")), (1, json!({ "objects": 1, "problems": [problem] })));
    let change = json!([{ "service": "demo/web", "before": ["192.0.2.0"], "after": ["192.0.2.8"] }]);
    assert_eq!(scene.json(&format!("diff -f {moved}")), (1, change));

    // What cannot be answered is told apart from a bad answer.
    for line in ["explain demo/none", "facts none", "check -f /none", "status --kubeconfig /none", "nonsense"]
    {
        let done = scene.plugin(&line.split(' ').collect::<Vec<_>>());
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(2) && error.contains("error: "), "{line}: {error}");
    }
}

#[tokio::test]
async fn the_configuration_of_an_older_metallb_becomes_objects_that_apply() {
    let scene = Scene::new().await.unwrap();
    let definitions = checkout().join("config/crd").display().to_string();
    scene.plane.kubectl(&["apply", "-k", &definitions]).unwrap();
    let said = scene.plugin(&["import"]);
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.code() == Some(2) && error.contains("there is no ConfigMap config"), "{error}");
    let config = |pool: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config, namespace: metallb-system}}\ndata:\n  config: |\n    \
             peers: [{{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1, bfd-profile: fast}}]\n    \
             bfd-profiles: [{{name: fast, receive-interval: 100}}]\n    bgp-communities: {{blue: '64512:7'}}\n    \
             address-pools:\n    - {{name: Old Pool, protocol: layer2, addresses: [{pool}]}}\n    \
             - {{name: routed, protocol: bgp, addresses: [198.51.100.0/28], bgp-advertisements: [{{communities: [blue]}}]}}\n"
        )
    };
    scene.apply(&config("203.0.113.8/29"), &[]).unwrap();
    let (status, text) = scene.ask("import");
    assert_eq!(status, 0, "{text}");
    let file = scene.file("imported.yaml", &text).unwrap().display().to_string();
    let applied = scene.plane.kubectl(&["apply", "-f", &file]).unwrap();
    let applied: BTreeSet<&str> = applied.lines().collect();
    let want = [
        "bfdprofile.metallb.io/fast created",
        "bgpadvertisement.metallb.io/routed created",
        "bgppeer.metallb.io/peer-192-0-2-1 created",
        "community.metallb.io/bgp-communities created",
        "ipaddresspool.metallb.io/old-pool created",
        "ipaddresspool.metallb.io/routed created",
        "l2advertisement.metallb.io/old-pool created",
    ];
    assert_eq!(applied, BTreeSet::from(want));
    // The same from a file, with what is wrong in it.
    let wrong = scene.file("wrong-config.yaml", &config("203.0.113.9")).unwrap();
    let (status, said) = scene.json(&format!("import -f {}", wrong.display()));
    let problem = "IPAddressPool \"old-pool\": spec.addresses[0]: 203.0.113.9 is a single address: write 203.0.113.9/32";
    assert_eq!((status, &said["problems"]), (1, &json!([problem])));
}

#[tokio::test]
async fn words_are_completed_as_kubectl_asks() {
    let scene = Scene::new().await.unwrap();
    let complete = |words: &[&str]| {
        let done = scene.plugin(&[&["__complete"], words].concat());
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(complete(&["facts", "node"]), "node1\nnode2\nnode3\n:4\n");
    assert_eq!(complete(&["explain", "demo/w"]), "demo/waits\ndemo/web\n:4\n");
    assert_eq!(complete(&["check", "-f", ""]), ":0\n");
    assert!(complete(&["st"]).starts_with("status\t"));
    let script = scene.ask("completion").1;
    assert!(script.starts_with("#!/bin/sh\n") && script.contains("kubectl-metallb __complete"), "{script}");
}

#[tokio::test]
async fn the_archive_holds_configuration_and_no_secret() {
    let scene = Scene::new().await.unwrap();
    let file = scene.plane.path("support.tar");
    let (status, said) = scene.ask(&format!("collect -f {}", file.display()));
    // There is no kubelet that would hand out logs, which is told.
    assert!(status == 1 && said.contains("not in it: logs/speaker-1/speaker.log"), "{said}");
    let listed = output(Command::new("tar").arg("-tf").arg(&file)).unwrap();
    let entries: BTreeSet<&str> = listed.lines().collect();
    for entry in [
        "status.yaml",
        "namespace/bgppeers.yaml",
        "namespace/bgpsessionstates.yaml",
        "namespace/roles.yaml",
        "cluster/namespaces.yaml",
        "cluster/services.yaml",
        "missing.txt",
    ] {
        assert!(entries.contains(format!("metallb-support/{entry}").as_str()), "{entry}: {listed}");
    }
    // That a cluster has no Prometheus Operator and no OLM is nothing to tell.
    assert!(!said.contains("monitors") && !said.contains("subscriptions"), "{said}");
    let bytes = std::fs::read(&file).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    // How YAML quotes them is no matter.
    for text in
        ["peerAddress: ", "192.0.2.254", "password: ", "(concealed)", "neighbor 192.0.2.252 password "]
    {
        assert!(holds(text), "{text}");
    }
    let passwords = ["correct horse battery staple", "tiger", "burning", "sesame"];
    for secret in passwords.into_iter().chain(["Z29zc2lwIGtleQ==", "gossip key"]) {
        assert!(!holds(secret), "{secret}");
    }
}
