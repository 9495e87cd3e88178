//! Running other programs: what they say is in the error when they fail.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::layout::NETNS_PREFIX;

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or fails, with the command and what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {line}"))?;
    if !done.status.success() {
        bail!("{line}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a line of words, split at blanks, for its effect.
///
/// # Errors
/// As [`output`].
pub fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    output(Command::new(words.next().context("an empty command")?).args(words)).map(drop)
}

/// A command that is run on `host`, in its network namespace.
pub fn on(host: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{NETNS_PREFIX}{host}")).arg("--").arg(program);
    command
}

/// Runs a line of words on `host` for its effect.
///
/// # Errors
/// As [`output`].
pub fn run_on(host: &str, line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    output(on(host, words.next().context("an empty command")?).args(words)).map(drop)
}

/// Asks again every 100 ms until `check` is true.
///
/// # Errors
/// When it is still false at the deadline: with what was waited for and what `check` saw last.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut check: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let seen = match check() {
            Ok(None) => return Ok(()),
            Ok(Some(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() > deadline {
            bail!("waited {} s for {what}; there was instead: {seen}", deadline.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}
