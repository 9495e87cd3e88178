//! How long a client is without an answer: it connects again and again, and the gaps are counted.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::layout::{Host, client};

/// One try every so often.
const INTERVAL: Duration = Duration::from_millis(5);
/// A connection that takes longer counts as failed, so that the next try soon finds the address at its new place.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same where nothing is to be lost: before it, a first packet that was lost is not sent again (RFC 6298 §2).
const LONG_PATIENCE: Duration = Duration::from_secs(1);

/// A client that connects to an address every 5 ms.
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Duration>>>,
}

impl Client {
    /// Starts connecting to port 80 of `address` from host client.
    #[must_use]
    pub fn start(address: IpAddr) -> Self {
        Self::start_on(&client(), address)
    }

    /// The same, for which a connection failed only after a second.
    #[must_use]
    pub fn patient(address: IpAddr) -> Self {
        Self::spawn(&client(), address, LONG_PATIENCE)
    }

    /// The same from any host.
    #[must_use]
    pub fn start_on(host: &Host, address: IpAddr) -> Self {
        Self::spawn(host, address, PATIENCE)
    }

    fn spawn(host: &Host, address: IpAddr, patience: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let host = host.clone();
        let thread = std::thread::spawn(move || {
            connect_until(&host, SocketAddr::new(address, 80), patience, &stopped)
        });
        Self { stop, thread }
    }

    /// Stops, and returns each time without a connection, longest first: from the last connection that was made
    /// before it to the next one. A client that never connected, or that was without at the end, is an error.
    ///
    /// # Errors
    /// As above.
    pub fn outages(self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client's thread ended early"))?
    }
}

/// Moves the calling thread, and no other, to the network of a host.
///
/// # Errors
/// When there is no such host.
pub fn enter(host: &Host) -> Result<()> {
    let namespace =
        File::open(format!("/run/netns/{}", host.netns())).with_context(|| format!("host {}", host.name))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

fn connect_until(
    host: &Host,
    target: SocketAddr,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<Vec<Duration>> {
    enter(host)?;
    let mut outages = Vec::new();
    let mut last_answer: Option<Instant> = None;
    let mut failed = false;
    let mut stopped: Option<Instant> = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            // The last try may have failed by chance: whether it goes on is seen by a few more.
            let since = *stopped.get_or_insert_with(Instant::now);
            if !failed || since.elapsed() > LONG_PATIENCE {
                break;
            }
        }
        let started = Instant::now();
        match TcpStream::connect_timeout(&target, patience) {
            Ok(_) => {
                if let (Some(before), true) = (last_answer, failed) {
                    outages.push(before.elapsed());
                }
                last_answer = Some(Instant::now());
                failed = false;
            }
            Err(_) => failed = true,
        }
        std::thread::sleep(INTERVAL.saturating_sub(started.elapsed()));
    }
    last_answer.with_context(|| format!("{target} never answered"))?;
    if failed {
        return Err(anyhow!("{target} did not answer any more at the end"));
    }
    outages.sort();
    outages.reverse();
    Ok(outages)
}
