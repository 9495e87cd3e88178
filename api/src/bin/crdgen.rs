//! Writes the CustomResourceDefinitions and their kustomization into the folder given as the only argument.

use std::{fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: crdgen FOLDER")?;
    let mut names = Vec::new();
    for definition in metallb_api::crd::all()? {
        let file = format!("metallb.io_{}.yaml", definition.spec.names.plural);
        fs::write(Path::new(&folder).join(&file), serde_saphyr::to_string(&definition)?)?;
        names.push(file);
    }
    let list: String = names.iter().map(|name| format!("- {name}\n")).collect();
    fs::write(
        Path::new(&folder).join("kustomization.yaml"),
        format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{list}"),
    )?;
    Ok(())
}
