//! Every block of commands in README.md, CONTRIBUTING.md and docs/ is run on the real cluster, or says why it is not.
//!
//! A block of `sh` is run on host cp as a script, in the folder of the repository; of `console`, the lines behind `$ `
//! are. A block of `yaml` with objects in it is put before the API server as a dry run. A comment on the line before a
//! block names what stands in for that: `<!-- not run: REASON -->`, or `<!-- run by: PATH -->` for a test that does.

#[path = "cluster/fixture.rs"]
#[allow(dead_code, reason = "scenes are not needed here")]
mod fixture;

use std::{
    fs,
    path::{Path, PathBuf},
};

use metallb_e2e::{
    cluster::checkout,
    exec::{on, output},
    layout::{bin, kubeconfig},
    observe::{address, apply, kube},
    tools,
};

/// A block of code in a page.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Line of the page that it begins at, from 1.
    line: usize,
    language: String,
    text: String,
    /// The comment before it.
    comment: Option<String>,
}

fn blocks(page: &str) -> Vec<Block> {
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

/// What is to be run of a block, if anything.
fn script(block: &Block) -> Option<String> {
    match block.language.as_str() {
        "sh" => Some(block.text.clone()),
        "console" => {
            let commands: Vec<_> = block.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
            Some(commands.join("\n"))
        }
        "yaml" if block.text.contains("apiVersion:") => {
            Some(format!("kubectl apply --dry-run=server -f - <<'END'\n{}END\n", block.text))
        }
        _ => None,
    }
}

/// Whether a comment says why the block is not run here; `Err` when what it says does not hold.
fn excused(comment: &str) -> Result<bool, String> {
    if let Some(reason) = comment.strip_prefix("not run: ") {
        return if reason.trim().is_empty() { Err("no reason".to_owned()) } else { Ok(true) };
    }
    match comment.strip_prefix("run by: ") {
        Some(test) if checkout().join(test).exists() => Ok(true),
        Some(test) => Err(format!("there is no {test}")),
        None => Ok(false),
    }
}

/// What the commands of a page expect to be there, and what undoes them.
fn scene(page: &str) -> &'static str {
    match page {
        "CONTRIBUTING.md" => {
            "cp target/images/operator.tar image.tar\ntrap 'rm -f image.tar; make -s power-on NODE=node2' EXIT\n"
        }
        _ => "",
    }
}

/// `home` is the reader's own folder; what is built stays where it is.
fn run(script: &str, home: &Path) -> anyhow::Result<String> {
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

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> =
        fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|page| checkout().join(page)));
    pages.sort();
    pages
}

#[test]
fn every_block_of_commands_works_or_says_why_it_is_not_run() {
    fixture::available();
    apply(include_str!("../demo/pools.yaml")).unwrap();
    apply(include_str!("../demo/web.yaml")).unwrap();
    // The pages speak of `default/web` too.
    apply(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [172.22.0.100], conditions: {ready: true}}]
",
    )
    .unwrap();
    kube("-n demo rollout status deployment/web --timeout=60s").unwrap();
    address("demo", "web").unwrap();
    let home = tempfile::tempdir().unwrap();
    let (mut ran, mut wrong) = (0, Vec::new());
    for page in pages() {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            let Some(script) = script(&block) else { continue };
            match block.comment.as_deref().map_or(Ok(false), excused) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => wrong.push(format!("{name}:{}: {error}", block.line)),
            }
            ran += 1;
            if let Err(error) = run(&format!("{}{script}", scene(&name)), home.path()) {
                wrong.push(format!("{name}:{}: {error:#}", block.line));
            }
        }
    }
    kube("delete namespace demo").unwrap();
    kube("-n default delete service,endpointslice web --ignore-not-found").unwrap();
    kube("-n metallb-system delete addresspool doc-example doc-example-ipv6").unwrap();
    println!("{ran} blocks were run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(ran >= 10, "only {ran} blocks were found");
}

#[test]
fn blocks_are_found_with_their_comments() {
    let page = "# A\n<!-- not run: none -->\n```sh\na\n```\n- item:\n\n  ```console\n  $ b\n  said\n  ```\n```yaml\nx: y\n```\n";
    let found = blocks(page);
    assert_eq!(
        found.iter().map(|block| (block.line, block.comment.as_deref(), script(block))).collect::<Vec<_>>(),
        [
            (3, Some("not run: none"), Some("a\n".to_owned())),
            (8, None, Some("b".to_owned())),
            (12, None, None),
        ]
    );
}
