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
    /// When it was released, RFC 3339; none of the version of this tree before it is.
    pub created_at: Option<String>,
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
    /// When it holds no release, one without channels, one that is not newer than the one before it, or an earlier one
    /// without a date.
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
        let unreleased = earlier.iter().rev().skip(1).find(|release| release.created_at.is_none());
        if let Some(release) = unreleased {
            return Err(problem(format!(
                "{}: createdAt must be set: later versions are listed",
                release.version
            )));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> Result<(String, Option<String>), String> {
        let releases = Releases::read(yaml).map_err(|problem| problem.to_string())?;
        let current = releases.current();
        Ok((current.version.to_string(), current.created_at.clone()))
    }

    #[test]
    fn the_last_one_may_be_unreleased() {
        assert_eq!(of("- {version: 0.1.0, channels: [stable]}\n"), Ok(("0.1.0".to_owned(), None)));
        assert_eq!(
            of(
                "- {version: 0.1.0, createdAt: a, channels: [stable]}\n- {version: 0.2.0, createdAt: b, channels: [stable]}\n"
            ),
            Ok(("0.2.0".to_owned(), Some("b".to_owned())))
        );
    }

    #[test]
    fn a_list_that_cannot_be_followed_is_refused() {
        for (yaml, want) in [
            ("[]", "releases.yaml: no version is listed"),
            ("- {version: 0.1.0, channels: []}\n", "releases.yaml: 0.1.0 is in no channel"),
            (
                "- {version: 0.2.0, createdAt: a, channels: [stable]}\n- {version: 0.1.0, channels: [stable]}\n",
                "releases.yaml: 0.1.0 does not follow 0.2.0",
            ),
            (
                "- {version: 0.1.0, channels: [stable]}\n- {version: 0.2.0, channels: [stable]}\n",
                "releases.yaml: 0.1.0: createdAt must be set: later versions are listed",
            ),
        ] {
            assert_eq!(of(yaml), Err(want.to_owned()));
        }
    }
}
