//! Real routers on host `router`: FRR, BIRD and GoBGP, each started with a configuration and asked what it holds.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    deps,
    exec::{on, output, run, wait_until},
    layout::RUN,
};

/// How long a router may take until it answers.
const START: Duration = Duration::from_secs(15);
const FRR: &str = "/usr/lib/frr";

/// A router that runs on a host. It ends with this value, and its routes with it.
pub struct Router {
    host: String,
    folder: PathBuf,
    programs: Vec<Child>,
}

impl Router {
    fn new(host: &str, name: &str) -> Result<Self> {
        let folder = Path::new(RUN).join(format!("{host}-{name}"));
        // What a killed predecessor left would be taken for the answers of this one.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        Ok(Self { host: host.to_owned(), folder, programs: Vec::new() })
    }

    /// Path of a file of this router.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.join(name), text)?)
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::File::create(self.folder.join(format!("{name}.out")))?;
        let child = on(&self.host, program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        self.programs.push(child);
        Ok(())
    }

    /// What the programs wrote, for the message of a failed test.
    #[must_use]
    pub fn log(&self) -> String {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = entries.filter(|path| path.extension().is_some_and(|kind| kind == "out" || kind == "log"));
        logs.filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let lines: Vec<_> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            Some(format!("{}:\n{}", path.display(), tail.join("\n")))
        })
        .collect::<Vec<_>>()
        .join("\n")
    }

    /// Asks again until `check` succeeds, and fails with what the router logged.
    ///
    /// # Errors
    /// When it does not within `seconds`.
    pub fn until(&self, what: &str, seconds: u64, mut check: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        wait_until(what, Duration::from_secs(seconds), || check(self).map(|()| None))
            .with_context(|| self.log())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // bgpd before zebra, so that the routes are taken back. Each may have ended by itself.
        for program in self.programs.iter_mut().rev() {
            if let Ok(pid) = i32::try_from(program.id()) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGTERM,
                );
            }
            let ended = wait_until("the router to end", Duration::from_secs(5), || {
                Ok(program.try_wait()?.is_none().then(|| "it runs".to_owned()))
            });
            if ended.is_err() {
                let _ = program.kill();
                let _ = program.wait();
            }
        }
    }
}

/// FRR: zebra, bgpd and bfdd.
pub struct Frr(pub Router);

impl Frr {
    /// Starts FRR on `host`. `config` is that of bgpd.
    ///
    /// # Errors
    /// When a program cannot be started or does not answer.
    pub fn start(host: &str, config: &str) -> Result<Self> {
        deps::need(&[("frr", "/usr/lib/frr/bgpd")])?;
        let mut router = Router::new(host, "frr")?;
        router.write("zebra.conf", "")?;
        router.write("bfdd.conf", "")?;
        router.write("bgpd.conf", &format!("frr defaults traditional\n{config}\n"))?;
        // FRR runs as a user of its own and must write there.
        run(&format!("chown -R frr:frr {}", router.folder.display()))?;
        let (folder, zserv, control) = (router.file(""), router.file("zserv.api"), router.file("bfdd.sock"));
        for (program, more) in [("zebra", &[][..]), ("bfdd", &["--bfdctl", &control]), ("bgpd", &[])] {
            let (config, pid) =
                (router.file(&format!("{program}.conf")), router.file(&format!("{program}.pid")));
            let log = format!("file:{}", router.file(&format!("{program}.log")));
            let mut arguments = vec![
                "-z",
                &zserv,
                "--vty_socket",
                &folder,
                "-i",
                &pid,
                "-f",
                &config,
                "-P",
                "0",
                "--log",
                &log,
            ];
            arguments.extend(more);
            router.spawn(&format!("{FRR}/{program}"), &arguments)?;
            let socket = router.folder.join(format!("{program}.vty"));
            wait_until(&format!("{program} to answer"), START, || {
                Ok((!socket.exists()).then(|| "no socket".to_owned()))
            })
            .with_context(|| router.log())?;
        }
        let frr = Self(router);
        frr.0.until("bgpd to answer", 15, |_| frr.ask("show version").map(drop))?;
        Ok(frr)
    }

    /// What vtysh says.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, command: &str) -> Result<String> {
        self.commands(&[command])
    }

    /// Runs several commands of vtysh, for example of its configuration.
    ///
    /// # Errors
    /// When one fails.
    pub fn commands(&self, commands: &[&str]) -> Result<String> {
        let mut vtysh = on(&self.0.host, "vtysh");
        vtysh.args(["--vty_socket", &self.0.file("")]);
        for command in commands {
            vtysh.args(["-c", command]);
        }
        output(&mut vtysh)
    }

    /// What vtysh says as JSON.
    ///
    /// # Errors
    /// When it fails or says something else.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = self.ask(&format!("{command} json"))?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// The valid paths of a prefix as bgpd holds them.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn paths(&self, prefix: &str) -> Result<Vec<Value>> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let found = self.json(&format!("show bgp {family} unicast {prefix}"))?;
        Ok(found["paths"].as_array().cloned().unwrap_or_default())
    }

    /// Names of the neighbors whose sessions stand, in order.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn established(&self) -> Result<Vec<String>> {
        let found = self.json("show bgp neighbors")?;
        let neighbors = found.as_object().context("no list of neighbors")?;
        Ok(neighbors
            .iter()
            .filter(|(_, neighbor)| neighbor["bgpState"] == "Established")
            .map(|(name, _)| name.clone())
            .collect())
    }
}

/// Debian's package of BIRD 2, and its program.
pub const BIRD: (&str, &str) = ("bird2", "/usr/sbin/bird");

/// BIRD 2.
pub struct Bird(pub Router);

impl Bird {
    /// Starts BIRD on `host`.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(host: &str, config: &str) -> Result<Self> {
        deps::need(&[BIRD])?;
        let mut router = Router::new(host, "bird")?;
        let log = router.file("bird.log");
        router.write("bird.conf", &format!("log \"{log}\" all;\n{config}\n"))?;
        let (config, socket, pid) =
            (router.file("bird.conf"), router.file("bird.ctl"), router.file("bird.pid"));
        router.spawn(BIRD.1, &["-f", "-c", &config, "-s", &socket, "-P", &pid])?;
        let bird = Self(router);
        bird.0.until("BIRD to answer", 15, |_| bird.ask("show status").map(drop))?;
        Ok(bird)
    }

    /// What BIRD says to a command, as birdc shows it. Asked over its control socket, without a program in between: it is
    /// asked often while it is measured.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn ask(&self, command: &str) -> Result<String> {
        let mut socket = UnixStream::connect(self.0.file("bird.ctl"))?;
        socket.set_read_timeout(Some(START))?;
        socket.write_all(format!("{command}\n").as_bytes())?;
        let mut said = String::new();
        let mut lines = BufReader::new(socket).lines();
        // A greeting, and the answer.
        for _ in 0..2 {
            loop {
                let line = lines.next().context("BIRD closed its control socket")??;
                // `1234-text`, at the end of a part `1234 text`, and between them ` text`.
                let (code, text) = match line.strip_prefix(' ') {
                    Some(text) => ("", text),
                    None => line.split_at_checked(5).unwrap_or((&line, "")),
                };
                said.push_str(text);
                said.push('\n');
                if code.ends_with(' ') {
                    break;
                }
            }
        }
        Ok(said)
    }

    /// Puts another configuration into use.
    ///
    /// # Errors
    /// When BIRD refuses it.
    pub fn configure(&self, config: &str) -> Result<()> {
        self.0.write("bird.conf", &format!("log \"{}\" all;\n{config}\n", self.0.file("bird.log")))?;
        let said = self.ask("configure")?;
        ensure!(said.contains("Reconfigured") || said.contains("Reconfiguration in progress"), "{said}");
        Ok(())
    }
}

/// GoBGP.
pub struct GoBgp(pub Router);

impl GoBgp {
    /// Starts GoBGP on `host`. It sets no kernel routes.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(host: &str, config: &str) -> Result<Self> {
        deps::need(&[("gobgpd", "/usr/bin/gobgpd")])?;
        let mut router = Router::new(host, "gobgp")?;
        router.write("gobgpd.toml", config)?;
        let config = router.file("gobgpd.toml");
        router.spawn(
            "/usr/bin/gobgpd",
            &["-f", &config, "--api-hosts", "127.0.0.1:50051", "--pprof-disable"],
        )?;
        let gobgp = Self(router);
        gobgp.0.until("GoBGP to answer", 15, |_| gobgp.ask("global").map(drop))?;
        Ok(gobgp)
    }

    /// What gobgp says.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, command: &str) -> Result<String> {
        output(on(&self.0.host, "/usr/bin/gobgp").args(command.split_whitespace()))
    }

    /// What gobgp says as JSON.
    ///
    /// # Errors
    /// When it fails or says something else.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = self.ask(&format!("-j {command}"))?;
        serde_json::from_str(&text).with_context(|| text)
    }
}

/// A program on a host that ends with this value, for example a listener that never answers.
pub struct Program(Child);

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
