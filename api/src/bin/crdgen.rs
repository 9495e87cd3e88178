//! Writes the CustomResourceDefinitions and their kustomization into the folder given as the only argument, and
//! removes definitions there that are no longer made.

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: crdgen FOLDER")?;
    let folder = Path::new(&folder);
    let files = metallb_api::crd::files()?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let stale = entry.file_name().to_str().is_some_and(|name| {
            name.contains("metallb.io_") && name.ends_with(".yaml") && !files.contains_key(name)
        });
        if stale {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
