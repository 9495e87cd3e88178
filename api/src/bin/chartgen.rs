//! Writes the generated parts of the Helm chart into the folder given as the first argument, from what
//! `kubectl kustomize config/default` renders on standard input. The second argument is the name of the package.

use std::error::Error;
use std::fs;
use std::io::{Read, stdin};
use std::path::Path;

use metallb_api::chart;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(package)) = (arguments.next(), arguments.next()) else {
        return Err("usage: chartgen FOLDER PACKAGE < RENDERED".into());
    };
    let folder = Path::new(&folder);
    let mut rendered = String::new();
    stdin().read_to_string(&mut rendered)?;
    let mut files = chart::files(&rendered)?;
    let chart = fs::read_to_string(folder.join("Chart.yaml"))?;
    files.insert("Chart.yaml".to_owned(), chart::named(&chart, &package)?);
    let values = fs::read_to_string(folder.join("values.yaml"))?;
    files.insert("values.yaml".to_owned(), chart::with_repositories(&values, &rendered)?);
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
