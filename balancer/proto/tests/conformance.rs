//! The conformance table of the manual names tests: each of them is there.

use std::collections::BTreeSet;

const MANUAL: &str = include_str!("../../../docs/bgp.md");

/// Names of the tests of a module, by its path below `src`.
fn tests(module: &str) -> BTreeSet<String> {
    let path = module.replace("::", "/");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let files = ["", "_tests"].map(|end| std::fs::read_to_string(format!("{folder}/{path}{end}.rs")));
    let text: String = files.into_iter().flatten().collect();
    let functions =
        text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
    functions.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn each_test_that_the_conformance_table_names_is_there() {
    let (_, chapter) = MANUAL.split_once("\n## Conformance\n").unwrap();
    let mut named = 0;
    for row in chapter.lines().filter(|line| line.starts_with('|')).skip(2) {
        let shown = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let mut of_module = BTreeSet::new();
        for word in shown.split('`').skip(1).step_by(2) {
            if word.starts_with("make ") {
                of_module.clear();
            } else if word.contains("::") {
                of_module = tests(word);
                assert!(!of_module.is_empty(), "{row}: module {word} has no tests");
            } else {
                let start = word.trim_end_matches("...");
                let is_there = of_module.iter().any(|test| test.starts_with(start));
                assert!(is_there, "{row}: {word} is none of {of_module:?}");
            }
            named += 1;
        }
        assert!(shown.contains('`'), "{row} names no test");
    }
    assert!(named > 20, "{named} names were found");
}
