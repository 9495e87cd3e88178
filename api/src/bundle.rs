//! The OLM bundle and the file-based catalog, made from the rendered configuration.
//!
//! Nothing here is written twice: rights, Deployment and examples come from config/, descriptors from the schemas of
//! the definitions, and only what a person has to say stands in config/manifests. The result is checked by [`rules`]
//! before it is written. Formats: `registry+v1` bundles
//! (<https://olm.operatorframework.io/docs/tasks/creating-operator-bundle/>) and file-based catalogs
//! (<https://olm.operatorframework.io/docs/reference/file-based-catalogs/>).

pub mod kinds;
pub mod objects;
pub mod rules;
pub mod schema;
pub mod upgrade;

mod catalog;
mod csv;
mod descriptors;
mod extension;
mod metadata;
mod releases;
mod rights;
mod subscription;
mod webhooks;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use serde_json::Value;

pub use releases::{Release, Releases};

use objects::{Rendered, name, write};

/// What the files are made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `kubectl kustomize config/manifests`: YAML documents.
    pub rendered: &'a str,
    /// config/manifests/releases.yaml.
    pub releases: &'a str,
    /// config/manifests/icon.svg.
    pub icon: &'a [u8],
    /// By version, the catalog's blobs of earlier releases, as [`EARLIER`] has them: YAML.
    pub earlier: &'a BTreeMap<String, String>,
}

/// Folders that hold the blob `bundle-vVERSION.yaml` of an earlier release, the better source first: as it was
/// published, with images by digest, and as it was made in the tree. `PACKAGE` stands for the name of the package.
pub const EARLIER: [&str; 2] = ["olm/released", "olm/catalog/PACKAGE"];

/// Why no bundle can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object or file at fault, such as `ClusterRole metallb-manager-role`.
    pub object: String,
    /// What is wrong with it, with the field where there is one.
    pub message: String,
}

impl Problem {
    fn new(object: impl Into<String>, message: impl Into<String>) -> Self {
        Self { object: object.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

impl Error for Problem {}

/// The files of bundle/ and olm/ by their paths from the root of the repository.
///
/// # Errors
/// When a source cannot be read, or holds something that a bundle cannot express.
pub fn files(sources: &Sources<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let rendered = Rendered::read(sources.rendered)?;
    let releases = Releases::read(sources.releases)?;
    let package = name(&rendered.base).to_owned();
    let rights = rights::of(&rendered)?;
    let csv = csv::build(&rendered, &rights, releases.current(), releases.before(), sources.icon)?;

    let mut files = BTreeMap::new();
    let mut add = |path: String, object: &Value| -> Result<(), Problem> {
        files.insert(path, write(object)?);
        Ok(())
    };
    add(format!("bundle/manifests/{package}.clusterserviceversion.yaml"), &csv)?;
    for definition in &rendered.definitions {
        let group = definition["spec"]["group"].as_str().unwrap_or_default();
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
        add(format!("bundle/manifests/{group}_{plural}.yaml"), definition)?;
    }
    for object in rights.objects.iter().chain(&rendered.plain) {
        let kind = objects::kind(object).to_lowercase();
        add(format!("bundle/manifests/{}_{kind}.yaml", name(object)), object)?;
    }
    let labels = metadata::labels(&package, releases.current());
    add("bundle/metadata/annotations.yaml".to_owned(), &metadata::annotations(&labels))?;
    add("bundle/tests/scorecard/config.yaml".to_owned(), &rendered.scorecard)?;
    for (file, object) in catalog::files(&package, &csv, &releases)? {
        add(format!("olm/catalog/{package}/{file}"), &object)?;
    }
    for release in releases.earlier() {
        // One that is missing breaks a rule.
        if let Some(blob) = sources.earlier.get(&release.version.to_string()) {
            files.insert(format!("olm/catalog/{package}/bundle-v{}.yaml", release.version), blob.clone());
        }
    }
    files.extend(subscription::files(&package, &csv)?);
    files.insert("olm/v1.yaml".to_owned(), extension::file(&package, &csv, &rendered, &rights)?);
    files.insert("bundle/bundle.Containerfile".to_owned(), metadata::containerfile(&labels));
    files.insert("olm/catalog.Containerfile".to_owned(), catalog::CONTAINERFILE.to_owned());
    Ok(files)
}
