//! The chart says what config/ says, under the version of this tree.

use std::fs;
use std::path::{Path, PathBuf};

use metallb_api::bundle::objects::read;
use metallb_api::crd;
use serde_json::{Value, json};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/chart")
}

fn yaml(path: &str) -> Value {
    read(&fs::read_to_string(chart().join(path)).unwrap()).unwrap().remove(0)
}

#[test]
fn the_definitions_are_those_of_the_types() {
    let mut wanted = crd::files().unwrap();
    wanted.remove("kustomization.yaml");
    let mut names: Vec<String> = fs::read_dir(chart().join("crds"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, wanted.keys().cloned().collect::<Vec<_>>(), "run: make chart");
    for (name, text) in wanted {
        let committed = fs::read_to_string(chart().join("crds").join(&name)).unwrap();
        assert!(committed == text, "{name} differs: run make chart");
    }
}

#[test]
fn version_and_images_are_those_of_this_tree() {
    let description = yaml("Chart.yaml");
    let version = json!(env!("CARGO_PKG_VERSION"));
    assert_eq!((&description["version"], &description["appVersion"]), (&version, &version));

    let values = yaml("values.yaml");
    let images = fs::read_to_string(chart().join("../manager/images.env")).unwrap();
    let prefix = images.lines().find_map(|line| line.strip_prefix("IMAGE_PREFIX=")).unwrap();
    for component in ["controller", "speaker"] {
        assert_eq!(values[component]["image"]["repository"], format!("{prefix}/{component}"));
    }
    assert_eq!(values["operator"]["image"]["repository"], "", "it follows the controller's");
}
