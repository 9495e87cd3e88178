//! The conformance table of the manual names tests: each of them is there.

use std::collections::BTreeSet;

const MANUAL: &str = include_str!("../../../docs/bgp.md");

/// Names of the tests in a text.
fn names(text: &str) -> BTreeSet<String> {
    let text = text.replace("#[tokio::test]", "#[test]");
    let functions =
        text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
    functions.map(|(name, _)| name.to_owned()).collect()
}

/// Names of the tests of a module: of this crate by its path below `src`, of the speaker's by that from `speaker` on.
fn tests(module: &str) -> BTreeSet<String> {
    let path = module.replace("::", "/");
    let source = if module.starts_with("speaker::") { "../src" } else { "src" };
    let folder = format!("{}/{source}", env!("CARGO_MANIFEST_DIR"));
    let files = ["", "_tests"].map(|end| std::fs::read_to_string(format!("{folder}/{path}{end}.rs")));
    names(&files.into_iter().flatten().collect::<String>())
}

/// Names of the tests that `make e2e-bgp` runs.
fn tests_with_routers() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/tests/bgp");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names(&files.map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>())
}

#[test]
fn each_test_that_the_conformance_table_names_is_there() {
    let (_, chapter) = MANUAL.split_once("\n## Conformance\n").unwrap();
    let mut named = 0;
    for row in chapter.lines().filter(|line| line.starts_with('|')).skip(2) {
        let shown = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let mut of_module = BTreeSet::new();
        let mut alone = None;
        for word in shown.split('`').skip(1).step_by(2) {
            if word == "make e2e-bgp" || word.contains("::") {
                assert_eq!(alone.replace(word), None, "{row} names no test of it");
                of_module = if word.contains("::") { tests(word) } else { tests_with_routers() };
            } else {
                alone = None;
                let start = word.trim_end_matches("...");
                let is_there = of_module.iter().any(|test| test.starts_with(start));
                assert!(is_there, "{row}: {word} is none of {of_module:?}");
            }
            named += 1;
        }
        assert_eq!(alone, None, "{row} names no test of it");
        assert!(shown.contains('`'), "{row} names no test");
    }
    assert!(named > 20, "{named} names were found");
}
