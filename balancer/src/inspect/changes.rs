//! Whether files hold a good configuration, and what they would change.

use std::{collections::BTreeMap, fmt, path::Path};

use kube::ResourceExt;
use metallb_core::{
    preview::{Difference, preview},
    served::serve,
};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::{Allocation, manifests::Manifests};

/// What is wrong with some files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Judgement {
    /// Objects of the configuration in them.
    pub(crate) objects: usize,
    /// What is wrong, each with its object and field, or with its file.
    pub(crate) problems: Vec<String>,
}

impl Judgement {
    /// Whether nothing is.
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        write!(f, "{} objects, {} problems", self.objects, self.problems.len())
    }
}

/// Judges the files at `path`.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn check(path: &Path) -> anyhow::Result<Judgement> {
    let manifests = Manifests::read(path)?;
    let problems = manifests.configuration.problems();
    let problems = manifests.unreadable.into_iter().chain(problems.iter().map(ToString::to_string));
    Ok(Judgement { objects: manifests.count, problems: problems.collect() })
}

/// What files would do to the addresses of a cluster's Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changes(Vec<Difference>);

impl Changes {
    /// The Services that would lose or change their address.
    pub(crate) fn harmed(&self) -> usize {
        self.0.iter().filter(|difference| !difference.before.is_empty()).count()
    }
}

impl Serialize for Changes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = |Difference { service, before, after }: &Difference| json!({ "service": service.to_string(), "before": before, "after": after });
        serializer.collect_seq(self.0.iter().map(entry))
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.0 {
            writeln!(f, "{difference}")?;
        }
        write!(f, "{} Services would lose or change their address", self.harmed())
    }
}

/// Tells what would happen if the files at `path` were applied.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn diff(live: &Allocation, path: &Path) -> anyhow::Result<Changes> {
    let manifests = Manifests::read(path)?;
    let present = live.present();
    let mut applied: BTreeMap<_, _> = live.pools.iter().map(|pool| (pool.name_any(), pool.clone())).collect();
    for mut pool in manifests.configuration.all_pools().cloned() {
        // What is applied over an object keeps its age, by which overlaps are judged.
        pool.metadata.creation_timestamp =
            applied.get(&pool.name_any()).and_then(|live| live.metadata.creation_timestamp.clone());
        applied.insert(pool.name_any(), pool);
    }
    let (after, _) = serve(&applied.values().collect::<Vec<_>>(), &present.pools);
    Ok(Changes(preview(present, after)))
}
