//! Writes bundle/ and olm/ for the repository given as the first argument, from what
//! `kubectl kustomize config/manifests` renders on standard input. They go into the repository itself, or, to be
//! published, into the folder given as the second argument: then images must have digests, and nothing may stand in for
//! what the project does not have yet. With `--keep-placeholders` as the third argument that is said and no more. Nothing
//! is written when a rule of OLM is broken.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{Read, stdin};
use std::path::Path;

use metallb_api::bundle::{EARLIER, Releases, Sources, files, rules};

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: bundlegen REPOSITORY [FOLDER [--keep-placeholders]] < RENDERED";
    let root = std::env::args_os().nth(1).ok_or(USAGE)?;
    let published = std::env::args_os().nth(2);
    let keeps_placeholders = match std::env::args().nth(3).as_deref() {
        None => false,
        Some("--keep-placeholders") => true,
        Some(_) => return Err(USAGE.into()),
    };
    let (root, folder) = (Path::new(&root), Path::new(published.as_ref().unwrap_or(&root)));
    let mut rendered = String::new();
    stdin().read_to_string(&mut rendered)?;
    let manifests = root.join("config/manifests");
    let releases = fs::read_to_string(manifests.join("releases.yaml"))?;
    let icon = fs::read(manifests.join("icon.svg"))?;
    let earlier = earlier(root, &releases)?;
    let files = files(&Sources { rendered: &rendered, releases: &releases, icon: &icon, earlier: &earlier })?;
    let mut broken = if published.is_some() { rules::check_published(&files) } else { rules::check(&files) };
    if keeps_placeholders {
        for placeholder in broken.extract_if(.., |broken| broken.rule == rules::PLACEHOLDERS) {
            eprintln!("not fit to be published: {}", placeholder.message);
        }
    }
    if !broken.is_empty() {
        let lines: Vec<_> = broken.iter().map(ToString::to_string).collect();
        return Err(format!("the bundle breaks rules of OLM:\n{}", lines.join("\n")).into());
    }
    for stale in ["bundle/manifests", "bundle/metadata", "bundle/tests", "olm/catalog"] {
        let stale = folder.join(stale);
        if stale.exists() {
            fs::remove_dir_all(stale)?;
        }
    }
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}

/// The blobs of earlier releases that the repository holds, by version.
fn earlier(root: &Path, releases: &str) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut folders = Vec::new();
    for folder in EARLIER {
        match folder.strip_suffix("/PACKAGE") {
            None => folders.push(root.join(folder)),
            Some(parent) => {
                for entry in fs::read_dir(root.join(parent))? {
                    folders.push(entry?.path());
                }
            }
        }
    }
    let mut blobs = BTreeMap::new();
    for release in Releases::read(releases)?.earlier() {
        let file = format!("bundle-v{}.yaml", release.version);
        let found = folders.iter().map(|folder| folder.join(&file)).find(|path| path.exists());
        if let Some(path) = found {
            blobs.insert(release.version.to_string(), fs::read_to_string(path)?);
        }
    }
    Ok(blobs)
}
