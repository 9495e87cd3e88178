//! Pages of the documentation: the blocks of commands in them, and running those as a reader does.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::checkout,
    exec::{on, output},
    layout::{bin, kubeconfig},
    tools,
};

/// A block of code in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of the page that it begins at, from 1.
    pub line: usize,
    /// What stands behind the fence.
    pub language: String,
    /// The lines, without their common indentation.
    pub text: String,
    /// The comment on the line before it.
    pub comment: Option<String>,
}

/// The blocks of a page, in their order.
#[must_use]
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    let mut before = "";
    for (index, line) in page.lines().enumerate() {
        let (indent, code) = (line.len() - line.trim_start().len(), line.trim_start());
        match (&mut open, code.strip_prefix("```")) {
            (None, Some(language)) => {
                let comment = before.trim().strip_prefix("<!-- ").and_then(|text| text.strip_suffix(" -->"));
                let block = Block {
                    line: index + 1,
                    language: language.to_owned(),
                    text: String::new(),
                    comment: comment.map(str::to_owned),
                };
                open = Some((indent, block));
            }
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), _) => {
                block.text.push_str(line.get(*indent..).unwrap_or(code));
                block.text.push('\n');
            }
            (None, None) => {}
        }
        before = line;
    }
    blocks
}

impl Block {
    /// What is to be run of it, if anything.
    #[must_use]
    pub fn script(&self) -> Option<String> {
        match self.language.as_str() {
            "sh" => Some(self.text.clone()),
            "console" => {
                let commands: Vec<_> = self.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
                Some(commands.join("\n"))
            }
            "yaml" if self.text.contains("apiVersion:") => {
                Some(format!("kubectl apply --dry-run=server -f - <<'END'\n{}END\n", self.text))
            }
            _ => None,
        }
    }

    /// Whether the comment names what stands in for running it here: a reason, or tests that take it from the page.
    ///
    /// # Errors
    /// When there is no reason, or one of the tests does not take this block of `page` by [`block`] or [`run_block`].
    pub fn is_excused(&self, page: &str) -> Result<bool> {
        let comment = self.comment.as_deref().unwrap_or_default();
        if let Some(reason) = comment.strip_prefix("not run:") {
            ensure!(!reason.trim().is_empty(), "no reason");
            return Ok(true);
        }
        let Some(tests) = comment.strip_prefix("run by: ") else { return Ok(false) };
        for test in tests.split(", ") {
            let source = fs::read_to_string(checkout().join(test)).with_context(|| test.to_owned())?;
            let is_taken = taken(&source, page).any(|words| self.text.contains(words));
            ensure!(is_taken, "{test} does not take this block");
        }
        Ok(true)
    }
}

/// By which words the source of a test takes blocks of `page`: what follows the page's name as an argument.
fn taken<'a>(source: &'a str, page: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    // A long call is written in several lines.
    let parts: Vec<&str> = source.split(&format!("\"{page}\",")).skip(1).collect();
    parts.into_iter().filter_map(|rest| {
        let words = rest.trim_start().strip_prefix('"')?;
        words.split('"').next().filter(|words| !words.is_empty())
    })
}

/// The one block of a page that holds `words`, as it stands. README.md and CONTRIBUTING.md are pages, too.
///
/// # Errors
/// When there is none, or several.
pub fn block(page: &str, words: &str) -> Result<Block> {
    let in_docs = checkout().join("docs").join(page);
    let path = if in_docs.exists() { in_docs } else { checkout().join(page) };
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut found: Vec<Block> =
        blocks(&text).into_iter().filter(|block| block.text.contains(words)).collect();
    let (last, others) = (found.pop(), found.len());
    ensure!(others == 0, "{page}: {} blocks with {words:?}", others + 1);
    last.with_context(|| format!("{page}: no block with {words:?}"))
}

/// Runs the one block of commands of a page that holds `words`, as a reader does: see [`run`].
///
/// # Errors
/// As [`block`] and [`run`], and when it holds no commands.
pub fn run_block(page: &str, words: &str) -> Result<String> {
    run_filled(page, words, &[])
}

/// The same, with what a reader is told to fill in: each word and what is written in its place.
///
/// # Errors
/// As [`run_block`], and when a word is not in it.
pub fn run_filled(page: &str, words: &str, filled: &[(&str, &str)]) -> Result<String> {
    let mut script = block(page, words)?.script().with_context(|| format!("{page}: no commands"))?;
    for (word, value) in filled {
        ensure!(script.contains(word), "{page}: {word} is not in {script}");
        script = script.replace(word, value);
    }
    let home = tempfile::tempdir()?;
    run(&script, home.path()).with_context(|| page.to_owned())
}

/// Runs a script on host cp, in the folder of the repository, with the programs that a reader has. `home` is the reader's
/// own folder; what is built stays where it is.
///
/// # Errors
/// When a command of it fails, with what it said.
pub fn run(script: &str, home: &Path) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = checkout().join("target/images/bin");
    let kubernetes = bin("kubectl").canonicalize()?;
    let helm = tools::helm()?;
    let folders = [kubernetes.parent(), helm.parent()].into_iter().flatten();
    let folders: Vec<_> = folders.map(|folder| folder.display().to_string()).collect();
    let mut bash = on("cp", "bash");
    let own = std::env::home_dir().unwrap_or_default();
    for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        bash.env(variable, std::env::var_os(variable).unwrap_or_else(|| own.join(folder).into()));
    }
    bash.env("METALLB_CACHE", tools::cache()?);
    bash.current_dir(checkout())
        .env("HOME", home)
        .env("PATH", format!("{}:{}:{path}", folders.join(":"), programs.display()))
        .env("KUBECONFIG", kubeconfig())
        .args(["-euo", "pipefail", "-c", script]);
    output(&mut bash)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of these languages, blocks are files that a reader writes: a test has to take each.
    const FILES: [&str; 2] = ["ini", "json"];
    /// The languages of blocks. One of any other might hold commands that nobody would run.
    const LANGUAGES: [&str; 5] = ["console", "ini", "json", "sh", "yaml"];

    #[test]
    fn blocks_are_found_with_their_comments() {
        let page = "# A\n<!-- not run: none -->\n```sh\na\n```\n- item:\n\n  ```console\n  $ b\n  said\n  ```\n```yaml\nx: y\n```\n";
        let found = blocks(page);
        assert_eq!(
            found
                .iter()
                .map(|block| (block.line, block.comment.as_deref(), block.script()))
                .collect::<Vec<_>>(),
            [
                (3, Some("not run: none"), Some("a\n".to_owned())),
                (8, None, Some("b".to_owned())),
                (12, None, None),
            ]
        );
    }

    #[test]
    fn an_excuse_holds_where_the_tests_take_the_block() {
        let excused = |comment: &str, page: &str| {
            let block = format!("<!-- {comment} -->\n```sh\nkubectl apply -k config/monitoring\n```\n");
            blocks(&block)[0].is_excused(page).map_err(|error| error.to_string())
        };
        let test = "e2e/tests/monitoring/main.rs";
        assert_eq!(excused("not run: it is long", "a.md"), Ok(true));
        assert_eq!(excused("not run: ", "a.md"), Err("no reason".to_owned()));
        assert_eq!(excused("a remark", "a.md"), Ok(false));
        assert_eq!(excused(&format!("run by: {test}"), "monitoring.md"), Ok(true));
        let not_taken = Err(format!("{test} does not take this block"));
        assert_eq!(excused(&format!("run by: {test}"), "install.md"), not_taken);
        assert_eq!(excused("run by: e2e/src/none.rs", "a.md"), Err("e2e/src/none.rs".to_owned()));
    }

    #[test]
    fn what_a_test_takes_is_seen_however_the_call_is_written() {
        let source = "run_block(\"a.md\", \"one\"); block(\n    \"a.md\",\n    \"two words\",\n); run_block(\"b.md\", \"three\"); (\"a.md\", 4)";
        let of = |page: &str| taken(source, page).collect::<BTreeSet<_>>();
        assert_eq!(of("a.md"), BTreeSet::from(["one", "two words"]));
        assert_eq!(of("b.md"), BTreeSet::from(["three"]));
    }

    #[test]
    fn the_one_block_with_some_words_is_found() {
        assert_eq!(block("monitoring.md", "apply -k").unwrap().language, "sh");
        let none = block("monitoring.md", "nowhere to be found").unwrap_err().to_string();
        assert_eq!(none, "monitoring.md: no block with \"nowhere to be found\"");
        let several = block("install.md", "kubectl").unwrap_err().to_string();
        assert!(several.ends_with("blocks with \"kubectl\""), "{several}");
    }

    #[test]
    fn each_excuse_of_the_pages_holds_and_each_language_is_known() {
        let mut paths: Vec<_> =
            fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.extend(["README.md", "CONTRIBUTING.md"].map(|page| checkout().join(page)));
        let mut wrong = Vec::new();
        for path in paths {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for block in blocks(&fs::read_to_string(&path).unwrap()) {
                if !LANGUAGES.contains(&block.language.as_str()) {
                    wrong.push(format!("{name}:{}: language {:?}", block.line, block.language));
                }
                match block.is_excused(&name) {
                    Ok(false) if FILES.contains(&block.language.as_str()) => {
                        wrong.push(format!("{name}:{}: no test takes it", block.line));
                    }
                    Ok(false) if block.language == "yaml" && block.script().is_none() => {
                        wrong
                            .push(format!("{name}:{}: no object that an API server could judge", block.line));
                    }
                    Err(error) => wrong.push(format!("{name}:{}: {error:#}", block.line)),
                    Ok(_) => {}
                }
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }
}
