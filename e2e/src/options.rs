//! Options of the installation that hold for a while.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cluster::kubectl,
    deploy::NAMESPACE,
    exec::{output, wait_until},
    observe::{get, kube},
};

/// Undoes what was done to the cluster when it goes, also when a test fails.
pub struct Undo<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Gives the MetalLB resource options of layer 2 (`spec.layer2`, as JSON), until the value is dropped. `flag` is one that
/// they become; every speaker runs with it on return.
///
/// # Errors
/// When the speakers do not follow in time.
pub fn layer2(options: &str, flag: &'static str) -> Result<Undo<impl FnMut() + use<>>> {
    let set = move |value: &str| -> Result<()> {
        let patch = format!("{{\"spec\":{{\"layer2\":{value}}}}}");
        let patched = ["-n", NAMESPACE, "patch", "metallb", "metallb", "--type=merge", "-p", &patch];
        output(kubectl().args(patched))?;
        let wanted = value != "null";
        wait_until("the DaemonSet to follow", Duration::from_secs(30), || {
            let daemon_set = get(&["-n", NAMESPACE, "daemonset", "speaker"])?;
            let args = daemon_set["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
            Ok((args.contains(flag) != wanted).then_some(args))
        })?;
        kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s")).map(drop)
    };
    set(options)?;
    Ok(Undo(move || drop(set("null"))))
}
