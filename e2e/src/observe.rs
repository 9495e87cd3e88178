//! What the cluster and the client see: objects of the API, and who answers for an address on the wire.

use std::{collections::BTreeMap, net::IpAddr, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    cluster::{self, kubectl},
    deploy::NAMESPACE,
    exec::{on, output, wait_until},
    layout::node,
};

/// One object as JSON: `arguments` are those of `kubectl get`.
///
/// # Errors
/// When it does not exist or the API server does not answer.
pub fn get(arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&output(kubectl().arg("get").args(arguments).args(["-o", "json"]))?)?)
}

/// Applies YAML as an administrator does, client-side.
///
/// # Errors
/// When the API server refuses it: with its message.
pub fn apply(yaml: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("metallb-e2e-{}.yaml", std::process::id()));
    std::fs::write(&file, yaml)?;
    let done = output(kubectl().args(["apply", "-f"]).arg(&file)).map(drop);
    std::fs::remove_file(file)?;
    done
}

/// Runs kubectl with the words of `line`.
///
/// # Errors
/// As kubectl fails: with its message.
pub fn kube(line: &str) -> Result<String> {
    output(kubectl().args(line.split_whitespace()))
}

/// The addresses of a Service, in the order of its status.
///
/// # Errors
/// As [`get`].
pub fn addresses(namespace: &str, service: &str) -> Result<Vec<IpAddr>> {
    let service = get(&["-n", namespace, "service", service])?;
    service["status"]["loadBalancer"]["ingress"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| Ok(entry["ip"].as_str().unwrap_or_default().parse()?))
        .collect()
}

/// Waits until the Service has an address.
///
/// # Errors
/// When it still has none at the deadline.
pub fn address(namespace: &str, service: &str) -> Result<IpAddr> {
    let mut found = None;
    wait_until(&format!("an address of Service {namespace}/{service}"), Duration::from_secs(15), || {
        found = addresses(namespace, service)?.first().copied();
        Ok(if found.is_some() { None } else { Some("no address".to_owned()) })
    })?;
    found.context("an address")
}

/// Status, reason and message of a condition of an object, `None` when it has no such condition.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind).map(
        |condition| (text(&condition["status"]), text(&condition["reason"]), text(&condition["message"])),
    )
}

/// Hardware address of each node's eth0, in lower case.
///
/// # Errors
/// When there is no cluster.
pub fn nodes_by_mac() -> Result<BTreeMap<String, String>> {
    (1..=cluster::nodes()?)
        .map(|index| {
            let name = node(index).name;
            let shown = output(on(&name, "ip").args(["-o", "link", "show", "eth0"]))?;
            let mac = shown
                .split_whitespace()
                .skip_while(|word| *word != "link/ether")
                .nth(1)
                .with_context(|| format!("no hardware address in {shown:?}"))?;
            Ok((mac.to_lowercase(), name))
        })
        .collect()
}

/// The hardware addresses that answer the client's question for `address`, one for each answer, in lower case.
///
/// # Errors
/// When the question cannot be asked. No answer is an empty list.
pub fn who_has(address: IpAddr) -> Result<Vec<String>> {
    let mut command = match address {
        IpAddr::V4(_) => {
            let mut command = on("client", "arping");
            command.args(["-r", "-c", "2", "-w", "1", "-I", "eth0"]).arg(address.to_string());
            command
        }
        IpAddr::V6(_) => {
            let mut command = on("client", "ndisc6");
            command.args(["-q", "-m", "-r", "1", "-w", "500"]).arg(address.to_string()).arg("eth0");
            command
        }
    };
    let done = command.output().context("cannot ask on the wire")?;
    let answers = String::from_utf8_lossy(&done.stdout).to_lowercase();
    if answers.is_empty() && done.status.code() == Some(127) {
        bail!("cannot ask on the wire: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(answers.split_whitespace().filter(|word| word.matches(':').count() == 5).map(str::to_owned).collect())
}

/// The one node that answers for `address` on the wire.
///
/// # Errors
/// When none or several answer.
pub fn owner(address: IpAddr) -> Result<String> {
    let mut answers = who_has(address)?;
    answers.sort();
    answers.dedup();
    let nodes = nodes_by_mac()?;
    match answers.as_slice() {
        [mac] => {
            nodes.get(mac).cloned().with_context(|| format!("{address} is at {mac}, which is no node's"))
        }
        [] => bail!("nobody answers for {address}"),
        several => bail!("several answer for {address}: {several:?} of {nodes:?}"),
    }
}

/// The node that the speakers say announces the Service.
///
/// # Errors
/// When the API server does not answer.
pub fn announcer(namespace: &str, service: &str) -> Result<Option<String>> {
    let list = get(&["-n", NAMESPACE, "servicel2statuses"])?;
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| &item["status"])
        .find(|status| status["serviceName"] == service && status["serviceNamespace"] == namespace)
        .and_then(|status| status["node"].as_str())
        .map(str::to_owned))
}

/// A command of the client outside the cluster: host client, or this machine for an existing cluster.
fn from_client(program: &str) -> Command {
    if cluster::is_external() { Command::new(program) } else { on("client", program) }
}

/// What the client gets from `http://ADDRESS/`, within two seconds.
///
/// # Errors
/// When there is no answer.
pub fn fetch(address: IpAddr) -> Result<String> {
    get_page(from_client("curl"), address)
}

/// What `host` gets from `http://ADDRESS/`, within two seconds.
///
/// # Errors
/// When there is no answer.
pub fn fetch_from(host: &str, address: IpAddr) -> Result<String> {
    get_page(on(host, "curl"), address)
}

fn get_page(mut curl: Command, address: IpAddr) -> Result<String> {
    let url = match address {
        IpAddr::V4(v4) => format!("http://{v4}/"),
        IpAddr::V6(v6) => format!("http://[{v6}]/"),
    };
    output(curl.args(["-sS", "-g", "--max-time", "2", &url])).map(|body| body.trim().to_owned())
}

/// Labels of the operator's pod, which serves the webhooks.
pub const OPERATOR: &str = "control-plane=controller-manager";

/// A node on which the pod of these labels does not run.
///
/// # Errors
/// When there is no such pod.
pub fn node_beside(labels: &str) -> Result<&'static str> {
    let pods = get(&["-n", NAMESPACE, "pods", "-l", labels])?;
    let taken = pods["items"][0]["spec"]["nodeName"].as_str().with_context(|| format!("no pod {labels}"))?;
    Ok(if taken == "node1" { "node2" } else { "node1" })
}
