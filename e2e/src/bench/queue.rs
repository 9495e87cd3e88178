//! Room in the queue of the web servers: without, what they turn away would be counted as the load balancer's.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rustix::{
    net::listen,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

/// Connections that a server has not accepted yet. busybox has room for 9, and is not scheduled for that long on a machine
/// that starts containers: a first packet that it drops is sent again only after a second (RFC 6298 §2).
const ROOM: i32 = 1024;

/// Makes room in the queues of all programs with these arguments, of which there are `servers` at least.
pub(crate) fn make_room(arguments: &[&str], servers: usize) -> Result<()> {
    let mut made = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let its: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_meant = arguments.iter().all(|argument| its.contains(&argument.as_bytes()));
        if is_meant && make_room_of(&entry.path())? {
            made += 1;
        }
    }
    ensure!(made >= servers, "{made} web servers listen, and not {servers}");
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
