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

/// The programs, as the images call them, and the users that they run as.
const PROGRAMS: [(&str, &str); 3] =
    [("operator", "65534:65534"), ("controller", "65534:65534"), ("speaker", "0:0")];

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
        for (name, _) in PROGRAMS {
            let program = bin.join(name);
            fs::write(&program, format!("{name} for {text}")).unwrap();
            fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// Makes the archive of `program` for `architectures`, as somebody with this umask.
fn archive(folder: &Path, program: &str, architectures: &str, umask: &str) -> PathBuf {
    let target = format!("target/images/{program}.tar");
    let command = format!("umask {umask}; exec make -s {target} ARCHS='{architectures}'");
    output(Command::new("sh").current_dir(folder).args(["-c", &command])).unwrap();
    folder.join(target)
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
    for (program, user) in PROGRAMS {
        let first = archive(one.path(), program, "amd64 arm64", "022");
        let second = archive(&other, program, "amd64 arm64", "077");
        assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "{program}: the archives differ");
        is_an_index(&first, program, user);
    }
}

/// The archive holds an image for each architecture, which runs `program` as `user`.
fn is_an_index(first: &Path, program: &str, user: &str) {
    let manifests = |index: &Value| index["manifests"].as_array().unwrap().clone();
    let [top] = manifests(&file(first, "index.json")).try_into().unwrap();
    assert_eq!(top["mediaType"], "application/vnd.oci.image.index.v1+json");
    let images = manifests(&blob(first, &top));
    let platforms: Vec<_> =
        images.iter().map(|image| image["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    let mut layers = Vec::new();
    for (image, architecture) in images.iter().zip(platforms) {
        let manifest = blob(first, image);
        let config = blob(first, &manifest["config"]);
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["Entrypoint"][0], format!("/{program}"));
        assert_eq!(config["config"]["User"], user);
        assert_eq!(config["created"], "1970-01-01T00:00:00Z");
        layers.push(manifest["layers"].clone());
    }
    assert_ne!(layers[0], layers[1], "{program}: each has the one of its own");
}

#[test]
fn an_archive_of_one_architecture_is_its_image() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let [own, other] = architectures();
    for architecture in [own, other] {
        for (program, _) in PROGRAMS {
            let archive = archive(folder.path(), program, architecture, "022");
            let [top] =
                <[Value; 1]>::try_from(file(&archive, "index.json")["manifests"].as_array().unwrap().clone())
                    .unwrap();
            assert_eq!(top["mediaType"], "application/vnd.oci.image.manifest.v1+json");
            let config = blob(&archive, &blob(&archive, &top)["config"]);
            assert_eq!(config["architecture"], architecture);
            assert_eq!(config["config"]["Entrypoint"][0], format!("/{program}"));
            fs::remove_file(archive).unwrap();
        }
    }
}
