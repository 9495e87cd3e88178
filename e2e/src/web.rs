//! The demo's web application in a namespace of its own, with room in the queues of its servers: without, what those turn away
//! would be taken for the load balancer's doing.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rustix::{
    net::listen,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::cluster::is_external;

const WEB: &str = include_str!("../demo/web.yaml");
/// The folder from which a server of the demo serves, which tells its process from others.
const FOLDER: &str = "/tmp/www";
/// Pods of the application.
const SERVERS: usize = 3;
/// Connections that a server has not accepted yet. busybox has room for 9, and is not scheduled for that long on a machine
/// that starts containers: a first packet that it drops is sent again only after a second (RFC 6298 §2).
const ROOM: i32 = 1024;

fn folder(name: &str) -> String {
    format!("/tmp/www-{name}")
}

/// Namespace `name` and Deployment `web` in it, as YAML.
#[must_use]
pub fn workload(name: &str) -> String {
    let workload = WEB.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    let workload = workload.replace("name: demo", &format!("name: {name}"));
    workload.replace("namespace: demo", &format!("namespace: {name}")).replace(FOLDER, &folder(name))
}

/// Makes room in the queues of the servers in namespace `name`, which run on this machine.
///
/// # Errors
/// When there are fewer than there should be.
pub fn make_room(name: &str) -> Result<()> {
    if is_external() {
        return Ok(());
    }
    let mut made = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_server = words.contains(&b"httpd".as_slice()) && words.contains(&folder(name).as_bytes());
        if is_server && make_room_of(&entry.path())? {
            made += 1;
        }
    }
    ensure!(made >= SERVERS, "{made} web servers of {name} listen, and not {SERVERS}");
    Ok(())
}

/// Listens anew on the socket of a process; tells whether it has one. What its children do is no matter.
fn make_room_of(process: &Path) -> Result<bool> {
    let name = process.file_name().context("a process has a number")?.to_string_lossy().into_owned();
    let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { return Ok(false) };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
    let mut listens = false;
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse() else { continue };
        let socket = pidfd_getfd(&handle, number, PidfdGetfdFlags::empty());
        // Of what is no socket, or a connection, it is an error.
        listens |= socket.is_ok_and(|socket| listen(socket, ROOM).is_ok());
    }
    Ok(listens)
}
