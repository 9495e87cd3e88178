//! cert-manager: its real controllers, as programs on host cp.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    exec::on,
    layout::kubeconfig,
    observe::{apply, kube},
    tools,
};

/// The kinds that the overlay in config/certmanager needs, and those of which cert-manager makes use for them.
const KINDS: [&str; 6] =
    ["certificaterequests", "certificates", "challenges", "clusterissuers", "issuers", "orders"];

/// cert-manager's controllers. They end with this value, and the definitions with them.
pub struct CertManager {
    programs: Vec<Child>,
    folder: tempfile::TempDir,
}

impl CertManager {
    /// Installs the definitions and starts the controllers.
    ///
    /// # Errors
    /// When they cannot be built or started.
    pub fn start() -> Result<Self> {
        let programs = tools::cert_manager()?;
        let source = tools::cert_manager_source()?;
        for kind in KINDS {
            let file = source.join(format!("deploy/crds/crd-{kind}.yaml"));
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            // Labels that Helm would fill in.
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains("{{")).collect();
            apply(&lines.join("\n"))?;
        }
        kube("wait crd --all --for=condition=Established --timeout=30s")?;
        let mut started = Self { programs: Vec::new(), folder: tempfile::tempdir()? };
        for program in ["controller", "cainjector"] {
            let log = File::create(started.folder.path().join(program))?;
            let child = on("cp", programs.join(program))
                .arg("--leader-elect=false")
                .env("KUBECONFIG", kubeconfig())
                .args((program == "controller").then(|| format!("--kubeconfig={}", kubeconfig().display())))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot run cert-manager's {program}"))?;
            started.programs.push(child);
        }
        Ok(started)
    }

    /// What the controllers logged last, for the message of a failed test.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |program| fs::read_to_string(self.folder.path().join(program)).unwrap_or_default();
        let last = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
        };
        ["controller", "cainjector"].map(|program| format!("{program}:\n{}", last(read(program)))).join("\n")
    }
}

impl Drop for CertManager {
    fn drop(&mut self) {
        for program in &mut self.programs {
            // It may have ended by itself.
            let _ = program.kill();
            let _ = program.wait();
        }
        for kind in KINDS {
            let group = if matches!(kind, "challenges" | "orders") { "acme." } else { "" };
            // A cluster that is gone has none of them.
            let _ = kube(&format!("delete crd {kind}.{group}cert-manager.io --ignore-not-found"));
        }
    }
}
