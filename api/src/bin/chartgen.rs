//! Writes the generated parts of the Helm chart into the folder given as the only argument, from what
//! `kubectl kustomize config/default` renders on standard input.

use std::error::Error;
use std::fs;
use std::io::{Read, stdin};
use std::path::Path;

use metallb_api::chart;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: chartgen FOLDER < RENDERED")?;
    let folder = Path::new(&folder);
    let mut rendered = String::new();
    stdin().read_to_string(&mut rendered)?;
    let files = chart::files(&rendered)?;
    let definitions = folder.join("crds");
    if definitions.exists() {
        fs::remove_dir_all(&definitions)?;
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
