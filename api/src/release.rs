//! A release: its version in every file that names it, and the list of what is linked into the programs.
//!
//! Versions are those of <https://semver.org>, the changelog is kept as <https://keepachangelog.com> says, and the bill
//! of materials is CycloneDX 1.5 in JSON (<https://cyclonedx.org/docs/1.5/json/>), without a time or a serial number, so
//! that the same sources give the same bytes.

pub mod bill;

use std::collections::BTreeMap;

use semver::Version;

/// The workspace's manifest, which holds the version.
pub const MANIFEST: &str = "Cargo.toml";
/// The images' prefix and version.
pub const IMAGES: &str = "config/manager/images.env";
/// The chart's own description.
pub const CHART: &str = "config/chart/Chart.yaml";
/// The releases from which the catalog is made.
pub const RELEASES: &str = "config/manifests/releases.yaml";
/// What changed.
pub const CHANGELOG: &str = "CHANGELOG.md";
/// The files that name the version, by their paths from the root of the repository.
pub const FILES: [&str; 5] = [MANIFEST, IMAGES, CHART, RELEASES, CHANGELOG];

/// Heading of what is not released yet.
const UNRELEASED: &str = "## Unreleased\n";

/// The files with `version` in them, released at `date` (YYYY-MM-DD).
///
/// # Errors
/// The file at fault and what is wrong with it: a version that is not newer, or nothing to tell about it.
pub fn prepare(
    files: &BTreeMap<&str, String>,
    version: &Version,
    date: &str,
) -> Result<BTreeMap<&'static str, String>, String> {
    let read = |path: &'static str| files.get(path).ok_or_else(|| format!("{path}: is missing"));
    let manifest = read(MANIFEST)?;
    let current = line_value(manifest, "version = \"", "\"").ok_or(format!("{MANIFEST}: has no version"))?;
    let before = Version::parse(current).map_err(|error| format!("{MANIFEST}: {current:?}: {error}"))?;
    if *version < before {
        return Err(format!("{MANIFEST}: {version} is older than {before}"));
    }
    let replaced = |path: &'static str, lines: &[(&str, &str)]| {
        lines.iter().try_fold(read(path)?.clone(), |text, (start, end)| {
            let old = line_value(&text, start, end).ok_or_else(|| format!("{path}: has no line {start}"))?;
            Ok::<_, String>(text.replacen(
                &format!("{start}{old}{end}"),
                &format!("{start}{version}{end}"),
                1,
            ))
        })
    };
    Ok(BTreeMap::from([
        (MANIFEST, replaced(MANIFEST, &[("version = \"", "\"")])?),
        (IMAGES, replaced(IMAGES, &[("VERSION=", "\n")])?),
        (CHART, replaced(CHART, &[("\nversion: ", "\n"), ("appVersion: ", "\n")])?),
        (RELEASES, releases(read(RELEASES)?, version, date)),
        (CHANGELOG, changelog(read(CHANGELOG)?, version, date)?),
    ]))
}

/// What stands between the first `start` and the `end` that follows it.
fn line_value<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(value, _)| value)
}

/// The list with the version in it, as the last one, in the place of one that was never released. A version with a
/// pre-release part is for the candidate channel.
fn releases(text: &str, version: &Version, date: &str) -> String {
    const START: &str = "- version: ";
    let first = format!("{START}{version}\n");
    let last = text.rfind(START).filter(|last| !text[*last..].contains("createdAt:"));
    let kept = text.split_once(&first).map_or(text, |(before, _)| before);
    let kept = last.and_then(|last| kept.get(..last)).unwrap_or(kept);
    let channels = if version.pre.is_empty() { "candidate, stable" } else { "candidate" };
    format!("{kept}{first}  createdAt: \"{date}T00:00:00Z\"\n  channels: [{channels}]\n")
}

/// The changelog, in which what was unreleased is of this version.
fn changelog(text: &str, version: &Version, date: &str) -> Result<String, String> {
    let heading = format!("## {version} ");
    if text.contains(&heading) {
        return Err(format!("{CHANGELOG}: {version} is released already"));
    }
    let (head, rest) =
        text.split_once(UNRELEASED).ok_or(format!("{CHANGELOG}: has no section Unreleased"))?;
    let news = rest.split_once("\n## ").map_or(rest, |(news, _)| news);
    if news.trim().is_empty() {
        return Err(format!("{CHANGELOG}: nothing is unreleased"));
    }
    Ok(format!("{head}{UNRELEASED}\n{heading}({date})\n{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (MANIFEST, "[workspace.package]\nversion = \"0.1.0\"\n[workspace.dependencies]\na = { version = \"0.1.0\" }\n".to_owned()),
            (IMAGES, "IMAGE_PREFIX=localhost/metallb\nVERSION=0.1.0\n".to_owned()),
            (CHART, "apiVersion: v2\nname: a\nversion: 0.1.0\nappVersion: 0.1.0\n".to_owned()),
            (RELEASES, "# Releases\n- version: 0.1.0\n  createdAt: \"2026-01-01T00:00:00Z\"\n  channels: [candidate, stable]\n".to_owned()),
            (CHANGELOG, "# Changelog\n\n## Unreleased\n\n- News.\n\n## 0.1.0 (2026-01-01)\n\n- Old.\n".to_owned()),
        ])
    }

    fn of(version: &str) -> Result<BTreeMap<&'static str, String>, String> {
        prepare(&files(), &Version::parse(version).unwrap(), "2026-12-01")
    }

    #[test]
    fn the_version_goes_into_every_file_and_nowhere_else() {
        let prepared = of("0.2.0").unwrap();
        assert_eq!(
            prepared,
            BTreeMap::from([
                (MANIFEST, "[workspace.package]\nversion = \"0.2.0\"\n[workspace.dependencies]\na = { version = \"0.1.0\" }\n".to_owned()),
                (IMAGES, "IMAGE_PREFIX=localhost/metallb\nVERSION=0.2.0\n".to_owned()),
                (CHART, "apiVersion: v2\nname: a\nversion: 0.2.0\nappVersion: 0.2.0\n".to_owned()),
                (
                    RELEASES,
                    format!("{}- version: 0.2.0\n  createdAt: \"2026-12-01T00:00:00Z\"\n  channels: [candidate, stable]\n", files()[RELEASES])
                ),
                (
                    CHANGELOG,
                    "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n\n- News.\n\n## 0.1.0 (2026-01-01)\n\n- Old.\n".to_owned()
                ),
            ])
        );
        let candidate = of("0.2.0-rc.1").unwrap();
        assert!(candidate[RELEASES].ends_with("channels: [candidate]\n"), "{}", candidate[RELEASES]);
    }

    #[test]
    fn the_first_release_is_of_the_version_that_is_there() {
        let mut first = files();
        first.insert(CHANGELOG, "# Changelog\n\n## Unreleased\n\n- All.\n".to_owned());
        let prepared = prepare(&first, &Version::new(0, 1, 0), "2026-12-01").unwrap();
        assert_eq!(
            prepared[RELEASES],
            "# Releases\n- version: 0.1.0\n  createdAt: \"2026-12-01T00:00:00Z\"\n  channels: [candidate, stable]\n"
        );
    }

    #[test]
    fn a_version_that_was_never_released_is_not_listed() {
        let mut unreleased = files();
        unreleased.insert(
            RELEASES,
            "# Releases\n- version: 0.0.9\n  createdAt: \"a\"\n  channels: [stable]\n- version: 0.1.0\n  channels: [stable]\n"
                .to_owned(),
        );
        unreleased.insert(CHANGELOG, "# Changelog\n\n## Unreleased\n\n- All.\n".to_owned());
        for version in ["0.1.0", "0.2.0"] {
            let prepared = prepare(&unreleased, &Version::parse(version).unwrap(), "2026-12-01").unwrap();
            assert_eq!(
                prepared[RELEASES],
                format!(
                    "# Releases\n- version: 0.0.9\n  createdAt: \"a\"\n  channels: [stable]\n- version: {version}\n  \
                     createdAt: \"2026-12-01T00:00:00Z\"\n  channels: [candidate, stable]\n"
                )
            );
        }
    }

    #[test]
    fn a_version_that_cannot_be_released_is_refused() {
        assert_eq!(of("0.0.9"), Err("Cargo.toml: 0.0.9 is older than 0.1.0".to_owned()));
        assert_eq!(of("0.1.0"), Err("CHANGELOG.md: 0.1.0 is released already".to_owned()));
        let mut silent = files();
        silent.insert(CHANGELOG, "# Changelog\n\n## Unreleased\n\n## 0.1.0 (2026-01-01)\n".to_owned());
        let refused = prepare(&silent, &Version::new(0, 2, 0), "2026-12-01");
        assert_eq!(refused, Err("CHANGELOG.md: nothing is unreleased".to_owned()));
    }
}
