//! `kubectl metallb`, run by kubectl itself, on the cluster.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use anyhow::ensure;
use metallb_e2e::{
    cluster::checkout,
    exec::{on, output},
    layout::{bin, kubeconfig},
    observe::{address, get, owner},
};
use serde_json::Value;

use crate::fixture::{Scene, available, eventually};

/// kubectl on host cp, with the plugin and what is in `folder` on its path.
fn kubectl(folder: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = checkout().join("target/images/bin");
    let mut kubectl = on("cp", bin("kubectl"));
    kubectl.env("PATH", format!("{}:{}:{path}", folder.display(), programs.display()));
    kubectl.env("KUBECONFIG", kubeconfig());
    kubectl
}

/// `kubectl metallb` and the words of `line`.
fn metallb(line: &str) -> Output {
    let nothing = tempfile::tempdir().unwrap();
    kubectl(nothing.path()).arg("metallb").args(line.split_whitespace()).output().unwrap()
}

fn json(line: &str) -> anyhow::Result<(i32, Value)> {
    let done = metallb(&format!("{line} -o json"));
    let value = serde_json::from_slice(&done.stdout)
        .map_err(|error| anyhow::anyhow!("{error}: {}", String::from_utf8_lossy(&done.stderr)))?;
    Ok((done.status.code().unwrap_or(-1), value))
}

#[test]
fn kubectl_completes_words_of_the_plugin_by_its_script() {
    available();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("kubectl_complete-metallb");
    fs::write(&script, metallb("completion").stdout).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let nodes = get(&["nodes"]).unwrap();
    let node = nodes["items"][0]["metadata"]["name"].as_str().unwrap();
    let said = output(kubectl(folder.path()).args(["__complete", "metallb", "facts", &node[..1]])).unwrap();
    assert!(said.lines().any(|line| line == node), "{said}");
}

#[test]
fn the_plugin_tells_what_is_seen_on_the_wire_and_leaves_secrets_where_they_are() {
    let scene = Scene::new("plugin", "[172.22.0.188/31]");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    eventually("the plugin to see all well", 20, || {
        let (status, said) = json("status")?;
        ensure!(status == 0, "{said:#}");
        Ok(())
    });
    eventually("the plugin to name the node that answers", 20, || {
        let (_, said) = json(&format!("services -n {}", scene.name))?;
        let node = owner(address)?;
        ensure!(
            said[0]["state"] == "Served" && said[0]["layer2"] == serde_json::json!([node]),
            "{node}: {said:#}"
        );
        Ok(())
    });
    let node = owner(address).unwrap();
    let (status, said) = json(&format!("drain-preview {node}")).unwrap();
    let moves = said["services"].as_array().unwrap().iter();
    let to = moves.filter(|one| one["service"] == "plugin/web").map(|one| &one["layer2To"]).next().unwrap();
    assert!(status == 0 && to.is_string() && *to != node.as_str(), "{said:#}");

    let archive = tempfile::tempdir().unwrap();
    let archive = archive.path().join("support.tar");
    let done = metallb(&format!("collect -f {}", archive.display()));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let list = output(Command::new("tar").arg("-tf").arg(&archive)).unwrap();
    for part in ["logs/controller-", "logs/speaker-", "logs/metallb-operator-controller-manager-"] {
        assert!(list.contains(part), "{list}");
    }
    let secret = get(&["-n", "metallb-system", "secret", "metallb-memberlist"]).unwrap();
    let bytes = fs::read(&archive).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    let encoded = secret["data"]["secretkey"].as_str().unwrap();
    assert!(!holds(encoded.as_bytes()), "the archive holds the key of the speakers' gossip");
}
