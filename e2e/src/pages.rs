//! Pages of the documentation: the blocks of commands in them, and running those as a reader does.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::checkout,
    exec::{on, output},
    layout::{bin, kubeconfig},
    tools,
};

/// Words of commands that a test writes in a form of its own: kubectl, the namespace, and the pool of the examples.
const ANYWHERE: [&str; 5] = ["kubectl", "-n", "metallb-system", "doc-example", "\\"];

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

    /// Whether the comment names what stands in for running it here: a reason, or tests that do the same.
    ///
    /// # Errors
    /// When there is no reason, or the tests neither run the blocks of `page` nor have the words of the commands.
    pub fn is_excused(&self, page: &str) -> Result<bool> {
        let comment = self.comment.as_deref().unwrap_or_default();
        if let Some(reason) = comment.strip_prefix("not run:") {
            ensure!(!reason.trim().is_empty(), "no reason");
            return Ok(true);
        }
        let Some(tests) = comment.strip_prefix("run by: ") else { return Ok(false) };
        let mut sources = String::new();
        for test in tests.split(", ") {
            sources += &fs::read_to_string(checkout().join(test)).with_context(|| test.to_owned())?;
        }
        let runs_the_page = sources.contains("pages::run(") && sources.contains(page);
        let missing = self.missing_from(&sources);
        ensure!(runs_the_page || missing.is_empty(), "{tests}: no word of {}", missing.join(" "));
        Ok(true)
    }

    /// Words of its commands that are nowhere in `sources`.
    fn missing_from(&self, sources: &str) -> Vec<String> {
        let script = self.script().unwrap_or_default();
        script
            .lines()
            .map(|line| line.split_once(" #").map_or(line, |(command, _)| command))
            .flat_map(str::split_whitespace)
            .map(|word| word.trim_matches(['\'', '"']))
            .filter(|word| !ANYWHERE.contains(word) && !sources.contains(word))
            .map(str::to_owned)
            .collect()
    }
}

/// The part of a page under the heading of the second level `heading`.
#[must_use]
pub fn section<'a>(page: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n"))?;
    Some(rest.split("\n## ").next().unwrap_or(rest))
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
    use super::*;

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
    fn an_excuse_holds_where_the_test_has_the_words_of_the_commands() {
        let excused = |comment: &str, commands: &str| {
            let page = format!("<!-- {comment} -->\n```sh\n{commands}\n```\n");
            blocks(&page)[0].is_excused("none.md").map_err(|error| error.to_string())
        };
        let deploys = "run by: e2e/src/deploy.rs";
        let applies = "kubectl -n metallb-system apply -k 'config/default' # with its namespace";
        assert_eq!(excused("not run: it is long", "sleep 1000"), Ok(true));
        assert_eq!(excused("not run: ", "true"), Err("no reason".to_owned()));
        assert_eq!(excused("a remark", "true"), Ok(false));
        assert_eq!(excused(deploys, applies), Ok(true));
        assert_eq!(
            excused(deploys, &format!("{applies}\nhelm uninstall")),
            Err("e2e/src/deploy.rs: no word of helm uninstall".to_owned())
        );
        assert_eq!(excused("run by: e2e/src/none.rs", applies), Err("e2e/src/none.rs".to_owned()));
        // It runs the section "Back" of that page.
        let adoption = "<!-- run by: e2e/tests/cluster/adoption.rs -->\n```sh\nhelm rollback\n```\n";
        assert!(blocks(adoption)[0].is_excused("moving.md").unwrap());
        assert!(blocks(adoption)[0].is_excused("operator.md").is_err());
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
                wrong.extend(
                    block.is_excused(&name).err().map(|error| format!("{name}:{}: {error:#}", block.line)),
                );
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn a_section_ends_at_the_next_heading() {
        let page = "# A\n\n## B\n\nb\n\n### C\n\nc\n\n## D\nd\n";
        assert_eq!(section(page, "B"), Some("\nb\n\n### C\n\nc\n"));
        assert_eq!(section(page, "D"), Some("d\n"));
        assert_eq!(section(page, "C"), None);
    }
}
