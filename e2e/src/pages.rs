//! Pages of the documentation: the blocks of commands in them, and running those as a reader does.

use std::path::Path;

use anyhow::Result;

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
    fn a_section_ends_at_the_next_heading() {
        let page = "# A\n\n## B\n\nb\n\n### C\n\nc\n\n## D\nd\n";
        assert_eq!(section(page, "B"), Some("\nb\n\n### C\n\nc\n"));
        assert_eq!(section(page, "D"), Some("d\n"));
        assert_eq!(section(page, "C"), None);
    }
}
