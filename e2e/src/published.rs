//! What a release's archives hold, against what they say of themselves: each image is of its platform, its program runs there and
//! needs nothing else, and the bundle names the platforms that are there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use metallb_api::bundle::objects::{kind, read};
use serde_json::Value;

use crate::{elf, exec::output};

/// The programs, as their archives are called.
pub const PROGRAMS: [&str; 3] = ["operator", "controller", "speaker"];

/// Label of a ClusterServiceVersion that says that there are images for an architecture.
const LABEL: &str = "operatorframework.io/arch.";

/// Checks the archives of the programs in `artifacts`, and the bundle in `bundle`.
///
/// # Errors
/// When they are not what they say, with the archive at fault.
pub fn check(artifacts: &Path, bundle: &Path) -> Result<()> {
    let labelled = labelled(bundle)?;
    for program in PROGRAMS {
        let archive = artifacts.join(format!("{program}.tar"));
        let found = architectures(&archive, program).with_context(|| archive.display().to_string())?;
        ensure!(
            found == labelled,
            "{}: images for {found:?}, while the ClusterServiceVersion is labelled for {labelled:?}",
            archive.display()
        );
    }
    Ok(())
}

/// The architectures that the ClusterServiceVersion of `bundle` is labelled for.
fn labelled(bundle: &Path) -> Result<BTreeSet<String>> {
    for entry in fs::read_dir(bundle.join("manifests"))? {
        let objects = read(&fs::read_to_string(entry?.path())?)?;
        if let Some(csv) = objects.iter().find(|object| kind(object) == "ClusterServiceVersion") {
            let labels = csv["metadata"]["labels"].as_object().into_iter().flatten();
            return Ok(labels.filter_map(|(key, _)| Some(key.strip_prefix(LABEL)?.to_owned())).collect());
        }
    }
    bail!("{}: no ClusterServiceVersion", bundle.display())
}

/// The architectures of the images in an OCI archive, each of which holds `program` for it, linked to nothing.
///
/// # Errors
/// When an image or its program is not of the architecture that the index says, or needs a loader.
pub fn architectures(archive: &Path, program: &str) -> Result<BTreeSet<String>> {
    let folder = tempfile::tempdir()?;
    output(Command::new("tar").arg("-C").arg(folder.path()).arg("-xf").arg(archive))?;
    let top = json(&folder.path().join("index.json"))?["manifests"][0].clone();
    let found = blob(folder.path(), &top)?;
    // An index of several images, or the manifest of one.
    let images = match found["manifests"].as_array() {
        Some(images) => images.clone(),
        None => vec![top],
    };
    let mut architectures = BTreeSet::new();
    for image in &images {
        let manifest = blob(folder.path(), image)?;
        let config = blob(folder.path(), &manifest["config"])?;
        let said = config["architecture"].as_str().context("an image without an architecture")?;
        let listed = image["platform"]["architecture"].as_str().unwrap_or(said);
        ensure!(listed == said, "the index says {listed}, and its image {said}");
        let [layer] = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            bail!("{said}: {} is not one layer", manifest["layers"]);
        };
        let needs = elf::needs(&unpack(&path(folder.path(), layer)?, program)?).context(said.to_owned())?;
        ensure!(
            needs.architecture == said,
            "the image for {said} holds a program for {}",
            needs.architecture
        );
        ensure!(
            !needs.loader && needs.libraries == 0,
            "{said}: the program is not linked statically: {needs:?}"
        );
        ensure!(architectures.insert(said.to_owned()), "there are two images for {said}");
    }
    Ok(architectures)
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

/// The file that a descriptor leads to.
fn path(folder: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().with_context(|| format!("no digest: {descriptor}"))?;
    Ok(folder.join("blobs").join(digest.replace(':', "/")))
}

fn blob(folder: &Path, descriptor: &Value) -> Result<Value> {
    json(&path(folder, descriptor)?)
}

/// The file `name` of a layer, which is compressed or not.
fn unpack(layer: &Path, name: &str) -> Result<Vec<u8>> {
    let done = Command::new("tar").arg("-xOaf").arg(layer).arg(name).stdin(Stdio::null()).output()?;
    ensure!(done.status.success(), "{}: {}", layer.display(), String::from_utf8_lossy(&done.stderr).trim());
    Ok(done.stdout)
}
