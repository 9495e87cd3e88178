//! What `make` writes of programs: archives of one architecture, an index of several, and the same bytes wherever and by
//! whomever it is done. The programs are stand-ins; needs buildah, and no cluster.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use metallb_e2e::{cluster::checkout, exec::output};
use serde_json::Value;

/// Architectures as images call them: this machine's, and the other.
fn architectures() -> [&'static str; 2] {
    if cfg!(target_arch = "aarch64") { ["arm64", "amd64"] } else { ["amd64", "arm64"] }
}

/// A folder of the repository's form with what images are made of.
fn prepare(folder: &Path) {
    for file in ["Makefile", "Containerfile", "config/manager/images.env"] {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(checkout().join(file), path).unwrap();
    }
    let [own, other] = architectures();
    for (bin, text) in [("bin".to_owned(), own), (format!("bin-{other}"), other)] {
        let bin = folder.join("target/images").join(bin);
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("operator");
        fs::write(&program, format!("a program for {text}")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Makes the archive of the operator for `architectures`, as somebody with this umask.
fn archive(folder: &Path, architectures: &str, umask: &str) -> PathBuf {
    let command = format!("umask {umask}; exec make -s target/images/operator.tar ARCHS='{architectures}'");
    output(Command::new("sh").current_dir(folder).args(["-c", &command])).unwrap();
    folder.join("target/images/operator.tar")
}

/// A file of an archive.
fn file(archive: &Path, name: &str) -> Value {
    let text = output(Command::new("tar").arg("-xOf").arg(archive).arg(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a descriptor leads to.
fn blob(archive: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap();
    file(archive, &format!("blobs/{}", digest.replace(':', "/")))
}

#[test]
fn an_archive_of_several_architectures_is_an_index_and_always_the_same() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let other = two.path().join("a/longer/path");
    prepare(one.path());
    prepare(&other);
    let first = archive(one.path(), "amd64 arm64", "022");
    let second = archive(&other, "amd64 arm64", "077");
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "the archives differ");

    let manifests = |index: &Value| index["manifests"].as_array().unwrap().clone();
    let [top] = manifests(&file(&first, "index.json")).try_into().unwrap();
    assert_eq!(top["mediaType"], "application/vnd.oci.image.index.v1+json");
    let images = manifests(&blob(&first, &top));
    let platforms: Vec<_> =
        images.iter().map(|image| image["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    let mut layers = Vec::new();
    for (image, architecture) in images.iter().zip(platforms) {
        let manifest = blob(&first, image);
        let config = blob(&first, &manifest["config"]);
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["Entrypoint"][0], "/operator");
        assert_eq!(config["config"]["User"], "65534:65534");
        assert_eq!(config["created"], "1970-01-01T00:00:00Z");
        layers.push(manifest["layers"].clone());
    }
    assert_ne!(layers[0], layers[1], "each has the program of its own");
}

#[test]
fn an_archive_of_one_architecture_is_its_image() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let [own, other] = architectures();
    for architecture in [own, other] {
        let archive = archive(folder.path(), architecture, "022");
        let [top] =
            <[Value; 1]>::try_from(file(&archive, "index.json")["manifests"].as_array().unwrap().clone())
                .unwrap();
        assert_eq!(top["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        let config = blob(&archive, &blob(&archive, &top)["config"]);
        assert_eq!(config["architecture"], architecture);
        fs::remove_file(archive).unwrap();
    }
}
