//! The controller that is measured: any program, as a process of its own.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The operator's command line, environment included: it runs in `namespace` as `pod` and serves on these ports.
#[must_use]
pub fn operator_command(program: &str, namespace: &str, pod: &str, probes: u16, webhooks: u16) -> String {
    format!(
        "env OPERATOR_NAMESPACE={namespace} POD_NAME={pod} CONTROLLER_IMAGE=controller:1 SPEAKER_IMAGE=speaker:1 \
         {program} --port={probes} --webhook-port={webhooks}"
    )
}

/// A running controller.
pub struct Subject(Child);

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Seconds of CPU, user and system.
    pub cpu: f64,
    /// Largest resident set, in KiB.
    pub peak_rss: u64,
    /// Resident set now, in KiB.
    pub rss: u64,
}

/// What a process has used so far.
///
/// # Errors
/// When it has ended.
pub fn usage(pid: u32) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // The name in brackets may hold blanks; the fields are counted from behind it (proc(5)).
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    Ok(Usage {
        cpu: (ticks(11) + ticks(12)) / per_second as f64,
        peak_rss: size("VmHWM:"),
        rss: size("VmRSS:"),
    })
}

impl Subject {
    /// Starts `command`, a program and its arguments separated by blanks.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn start(command: &str, kubeconfig: &Path, log: &Path) -> Result<Self> {
        let mut words = command.split_whitespace();
        let program = words.next().context("no controller is named")?;
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(words)
            .env("KUBECONFIG", kubeconfig)
            .env("METALLB_NAMESPACE", super::NAMESPACE)
            .env("METALLB_POD_NAME", "controller-bench")
            .env("METALLB_DEPLOYMENT", "controller")
            .env("METALLB_ML_SECRET_NAME", "metallb-memberlist")
            .env("METALLB_BGP_TYPE", "native")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        Ok(Self(child))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.0.id())
    }

    /// Ends it without warning.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Stops it where it is, as a machine that is migrated.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?)
    }

    /// Asks it to end, and ends it when it does not within ten seconds.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        for _ in 0..1000 {
            if self.0.try_wait()?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Only when a measurement broke off; it may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
