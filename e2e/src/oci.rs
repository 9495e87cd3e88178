//! Single-layer OCI archives of the two images that the cluster itself needs, written without an engine: the
//! sandbox of every pod, and a web server for the demo and the tests.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::node::PAUSE_IMAGE;

/// The web server's image: busybox, its applets reached as `busybox NAME` or by `/bin/sh`.
pub(crate) const BUSYBOX_IMAGE: &str = "lab.local/busybox:1";

/// Writes `pause.tar` and `busybox.tar` into `folder`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let busybox = fs::read("/bin/busybox").context("/bin/busybox of package busybox-static")?;
    // The first process of a pod ignores signals that it does not handle.
    let pause = "trap 'exit 0' TERM INT; while :; do busybox sleep 2147483647 & wait; done";
    archive(&folder.join("pause.tar"), PAUSE_IMAGE, &busybox, &["/bin/sh", "-c", pause])?;
    archive(&folder.join("busybox.tar"), BUSYBOX_IMAGE, &busybox, &["/bin/sh"])
}

fn archive(path: &Path, image: &str, busybox: &[u8], entrypoint: &[&str]) -> Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "bin/busybox", busybox, 0o755)?;
    let mut shell = tar::Header::new_gnu();
    shell.set_entry_type(tar::EntryType::Symlink);
    shell.set_size(0);
    layer.append_link(&mut shell, "bin/sh", "busybox")?;
    let mut tmp = tar::Header::new_gnu();
    tmp.set_entry_type(tar::EntryType::Directory);
    tmp.set_mode(0o1777);
    tmp.set_size(0);
    layer.append_data(&mut tmp, "tmp/", std::io::empty())?;
    let layer = layer.into_inner()?;

    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": image});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

    let mut archive = tar::Builder::new(fs::File::create(path)?);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut archive, "index.json", &index, 0o644)?;
    for blob in [&layer, &config, &manifest] {
        append(&mut archive, &digest(blob).replace("sha256:", "blobs/sha256/"), blob, 0o644)?;
    }
    archive.finish()?;
    Ok(())
}

fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn descriptor(media_type: &str, blob: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
