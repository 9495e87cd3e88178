//! Writes bundle/ and olm/ under the folder given as the only argument, from what `kubectl kustomize config/manifests`
//! renders on standard input. Nothing is written when a rule of OLM is broken.

use std::error::Error;
use std::fs;
use std::io::{Read, stdin};
use std::path::Path;

use metallb_api::bundle::{Sources, files, rules};

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: bundlegen FOLDER < RENDERED")?;
    let root = Path::new(&root);
    let mut rendered = String::new();
    stdin().read_to_string(&mut rendered)?;
    let manifests = root.join("config/manifests");
    let releases = fs::read_to_string(manifests.join("releases.yaml"))?;
    let icon = fs::read(manifests.join("icon.svg"))?;
    let files = files(&Sources { rendered: &rendered, releases: &releases, icon: &icon })?;
    let broken = rules::check(&files);
    if !broken.is_empty() {
        let lines: Vec<_> = broken.iter().map(ToString::to_string).collect();
        return Err(format!("the bundle breaks rules of OLM:\n{}", lines.join("\n")).into());
    }
    for folder in ["bundle/manifests", "bundle/metadata", "bundle/tests"] {
        let folder = root.join(folder);
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    for (path, text) in files {
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}
