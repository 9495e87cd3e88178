//! The released versions and their channels.

use semver::Version;
use serde::Deserialize;

use super::Problem;

/// One released version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// Semantic version.
    pub version: Version,
    /// When it was released, RFC 3339.
    pub created_at: String,
    /// Channels of the catalog that it is in.
    pub channels: Vec<String>,
}

/// All released versions, oldest first; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Releases {
    earlier: Vec<Release>,
    current: Release,
}

impl Releases {
    /// Reads config/manifests/releases.yaml.
    ///
    /// # Errors
    /// When it holds no release, one without channels, or one that is not newer than the one before it.
    pub fn read(yaml: &str) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new("releases.yaml", message);
        let mut earlier: Vec<Release> =
            serde_saphyr::from_str(yaml).map_err(|error| problem(error.to_string()))?;
        for (before, after) in earlier.iter().zip(earlier.iter().skip(1)) {
            if after.version <= before.version {
                return Err(problem(format!("{} does not follow {}", after.version, before.version)));
            }
        }
        if let Some(release) = earlier.iter().find(|release| release.channels.is_empty()) {
            return Err(problem(format!("{} is in no channel", release.version)));
        }
        let current = earlier.pop().ok_or_else(|| problem("no version is listed".to_owned()))?;
        Ok(Self { earlier, current })
    }

    /// The version that is built from this tree.
    pub fn current(&self) -> &Release {
        &self.current
    }

    /// The version before the current one that shares a channel with it.
    pub fn before(&self) -> Option<&Release> {
        let shared = |release: &&Release| {
            release.channels.iter().any(|channel| self.current.channels.contains(channel))
        };
        self.earlier.iter().rev().find(shared)
    }

    /// Those before the current one, oldest first.
    pub fn earlier(&self) -> impl Iterator<Item = &Release> {
        self.earlier.iter()
    }

    /// Oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Release> {
        self.earlier.iter().chain([&self.current])
    }
}
