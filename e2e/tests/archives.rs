//! What `make` writes of programs: archives of one architecture, an index of several, and the same bytes wherever and by
//! whomever it is done. The programs are stand-ins; needs buildah, and no cluster.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use metallb_e2e::{cluster::checkout, exec::output, olm, published};
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

#[test]
fn a_program_for_another_machine_is_found_in_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let [own, other] = architectures();
    // A program that needs no other file, for this machine.
    for bin in ["bin".to_owned(), format!("bin-{other}")] {
        fs::copy("/bin/busybox", folder.path().join("target/images").join(bin).join("operator")).unwrap();
    }
    let one = archive(folder.path(), "operator", own, "022");
    assert_eq!(published::architectures(&one, "operator").unwrap(), BTreeSet::from([own.to_owned()]));
    let both = archive(folder.path(), "operator", "amd64 arm64", "022");
    let error = format!("{:#}", published::architectures(&both, "operator").unwrap_err());
    assert_eq!(error, format!("the image for {other} holds a program for {own}"));
    let script = archive(folder.path(), "speaker", own, "022");
    let error = format!("{:#}", published::architectures(&script, "speaker").unwrap_err());
    assert_eq!(error, format!("{own}: no program for Linux of 64 bits"));
}

/// Stands in for opm, which is in no registry that the tests reach: it writes what it is asked and what it was given where
/// opm writes its cache.
const OPM: &str = "\
#!/bin/sh
/bin/busybox mkdir -p /tmp/cache
echo \"$@\" > /tmp/cache/asked
/bin/busybox find /configs -type f | /bin/busybox sort >> /tmp/cache/asked
";

/// Builds the catalog's image in a folder of its own as docs/release.md tells, upon the stand-in, and returns its layout.
fn catalog_image(scratch: &Path) -> PathBuf {
    let base = scratch.join("base");
    fs::create_dir_all(&base).unwrap();
    fs::copy("/bin/busybox", base.join("busybox")).unwrap();
    fs::write(base.join("opm"), OPM).unwrap();
    fs::set_permissions(base.join("opm"), fs::Permissions::from_mode(0o755)).unwrap();
    let copies = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nCOPY opm /bin/opm\n";
    fs::write(base.join("Containerfile"), copies).unwrap();
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(scratch.join("storage")).arg("--runroot").arg(scratch.join("run"));
        output(command.args(["--storage-driver", "vfs"]).args(arguments)).unwrap()
    };
    let build = ["bud", "-q", "--isolation", "chroot", "--timestamp", "0"];
    let (base, olm) = (base.display().to_string(), checkout().join("olm").display().to_string());
    buildah(&[&build[..], &["-t", "localhost/opm:1", &base]].concat());
    let file = format!("{olm}/catalog.Containerfile");
    let upon = [
        "--build-arg",
        "OPM=localhost/opm:1",
        "-f",
        file.as_str(),
        "-t",
        "localhost/catalog:1",
        olm.as_str(),
    ];
    buildah(&[&build[..], &upon].concat());
    let layout = scratch.join("layout");
    buildah(&["push", "-q", "localhost/catalog:1", &format!("oci:{}:catalog", layout.display())]);
    layout
}

#[test]
fn the_image_of_the_catalog_holds_every_file_and_a_cache_made_of_them() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let layout = catalog_image(one.path());
    let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let at = |descriptor: &Value| {
        layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
    };
    let index = json(layout.join("index.json"));
    assert_eq!(index, json(catalog_image(two.path()).join("index.json")), "two builds give the same bytes");

    let manifest = json(at(&index["manifests"][0]));
    let config = json(at(&manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/bin/opm"]));
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["serve", "/configs", "--cache-dir=/tmp/cache"]));
    assert_eq!(config["config"]["Labels"]["operators.operatorframework.io.index.configs.v1"], "/configs");

    let root = one.path().join("root");
    fs::create_dir_all(&root).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        output(Command::new("tar").arg("-C").arg(&root).arg("-xzf").arg(at(layer))).unwrap();
    }
    let package = olm::package().unwrap();
    let catalog = checkout().join("olm/catalog").join(&package);
    let mut files: Vec<String> = fs::read_dir(&catalog)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert!(files.contains(&"package.yaml".to_owned()), "{files:?}");
    for file in &files {
        let copied = fs::read(root.join("configs").join(&package).join(file)).unwrap();
        assert!(copied == fs::read(catalog.join(file)).unwrap(), "{file}");
    }
    let asked = fs::read_to_string(root.join("tmp/cache/asked")).unwrap();
    let mut lines = asked.lines();
    assert_eq!(lines.next(), Some("serve /configs --cache-dir=/tmp/cache --cache-only"));
    let listed: Vec<String> = files.iter().map(|file| format!("/configs/{package}/{file}")).collect();
    assert_eq!(lines.collect::<Vec<_>>(), listed);
}
