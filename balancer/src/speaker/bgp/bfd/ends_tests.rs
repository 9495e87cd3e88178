//! Two ends of ours, each in a network namespace of its own: real sockets, and the kernels' forwarding.
//!
//! ```text
//!   v0 172.22.0.1/24, fd00:22::1/64  ------  v1 172.22.0.2/24, fd00:22::2/64
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::speaker::bgp::bfd::task;
use crate::speaker::bgp::metrics::BfdMetrics;

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(20);

/// An end, which runs until it is dropped.
struct End {
    /// Thread whose namespace it is in.
    thread: i32,
    metrics: BgpMetrics,
    label: Label,
    profile: BfdProfile,
    /// Profiles to be watched with from now on.
    edits: mpsc::UnboundedSender<Option<BfdProfile>>,
    /// Times that the path broke.
    failures: Arc<AtomicU64>,
    go: Option<std::sync::mpsc::Sender<()>>,
    cancel: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl End {
    /// An end that waits for its link.
    fn new(own: IpAddr, other: IpAddr) -> Self {
        let order = order(179);
        let mut profile = order.bfd.unwrap();
        profile.echo_mode = true;
        let metrics = BgpMetrics::default();
        let label = Label::of(&order.spec);
        let cancel = CancellationToken::new();
        let (tell, told) = std::sync::mpsc::channel();
        let (go, ready) = std::sync::mpsc::channel::<()>();
        let (shown, its, stop) = (metrics.clone(), label.clone(), cancel.clone());
        let (edits, mut edited) = mpsc::unbounded_channel();
        let failures = Arc::new(AtomicU64::new(0));
        let (first, broken) = (profile.clone(), Arc::clone(&failures));
        let running = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            ready.recv().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (sender, task) = task(shown.bfd.clone());
                let mut monitor = sender.monitor("other", its);
                monitor.configure(Some(&first));
                let at = |address: IpAddr| SocketAddr::new(address, 0);
                monitor.watch(Reach { local: at(own), router: at(other), device: None, is_multihop: false });
                let mut task = std::pin::pin!(task);
                loop {
                    tokio::select! {
                        ended = &mut task => panic!("BFD ended: {ended:?}"),
                        () = stop.cancelled() => break,
                        Some(profile) = edited.recv() => monitor.configure(Option::as_ref(&profile)),
                        has_failed = monitor.changed() => {
                            broken.fetch_add(u64::from(has_failed), Ordering::Relaxed);
                        }
                    }
                }
            });
        });
        let thread = told.recv().unwrap();
        let (go, running) = (Some(go), Some(running));
        Self { thread, metrics, label, profile, edits, failures, go, cancel, running }
    }

    /// Runs a line of words in the namespace.
    fn run(&self, line: &str) {
        let namespace = format!("--net=/proc/{}/task/{}/ns/net", std::process::id(), self.thread);
        let status = Command::new("nsenter").arg(namespace).args(line.split_whitespace()).status().unwrap();
        assert!(status.success(), "{line}");
    }

    /// Gives an interface its addresses, and forwards what arrives there, as a node and a router do.
    fn plug(&mut self, interface: &str, number: u8) {
        self.run(&format!("ip addr add 172.22.0.{number}/24 dev {interface}"));
        self.run(&format!("ip -6 addr add fd00:22::{number}/64 dev {interface} nodad"));
        self.run(&format!("ip link set {interface} up"));
        self.run(&format!(
            "sysctl -qw net.ipv4.conf.{interface}.forwarding=1 net.ipv6.conf.all.forwarding=1"
        ));
    }

    fn count(&self, metric: impl Fn(&BfdMetrics) -> &Family<Label, Gauge>) -> i64 {
        metric(&self.metrics.bfd).get_or_create(&self.label).get()
    }

    fn echoes(&self) -> [i64; 2] {
        [self.count(|bfd| &bfd.echo_packet_output), self.count(|bfd| &bfd.echo_packet_input)]
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.go.take();
        if let Some(running) = self.running.take()
            && let Err(panic) = running.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Two ends with sessions between their addresses, which begin at once.
fn joined(addresses: [&str; 2]) -> [End; 2] {
    let [a, b] = addresses.map(|address| address.parse().unwrap());
    let mut ends = [End::new(a, b), End::new(b, a)];
    ends[0].run(&format!("ip link add v0 type veth peer name v1 netns {}", ends[1].thread));
    ends[0].plug("v0", 1);
    ends[1].plug("v1", 2);
    for end in &ends {
        end.go.as_ref().unwrap().send(()).unwrap();
    }
    ends
}

fn until(what: &str, ends: &[End; 2], check: impl Fn(&End) -> bool) {
    let started = Instant::now();
    while !ends.iter().all(&check) {
        let shown = ends.each_ref().map(|end| (end.count(|bfd| &bfd.session_up), end.echoes()));
        assert!(started.elapsed() < PATIENCE, "{what}: sessions up, echo packets out and in: {shown:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for end in ends {
        assert_eq!(end.count(|bfd| &bfd.session_down_events), 0, "{what}");
    }
}

#[test]
#[ignore = "needs root; `make e2e` runs it"]
fn ipv4_echo_packets_go_both_ways_and_ipv6_asks_for_none() {
    let ends = joined(["fd00:22::1", "fd00:22::2"]);
    let is_long_up =
        |end: &End| end.count(|bfd| &bfd.session_up) == 1 && end.count(|bfd| &bfd.control_packet_input) > 40;
    until("IPv6 sessions", &ends, is_long_up);
    assert_eq!(ends.each_ref().map(End::echoes), [[0, 0]; 2]);
    drop(ends);

    let ends = joined(["172.22.0.1", "172.22.0.2"]);
    until("IPv4 echo packets", &ends, |end| end.echoes().iter().all(|count| *count > 40));
    // Each end gets another link-layer address: the other one finds it, and no session ends.
    for (at, interface) in [(0, "v0"), (1, "v1"), (0, "v0")] {
        let before = ends.each_ref().map(End::echoes);
        ends[at]
            .run(&format!("ip link set {interface} address 02:00:00:00:{at:02x}:{:02x}", before[0][0] % 256));
        until("IPv4 echo packets after a move", &ends, |end| {
            let its = usize::from(end.thread == ends[1].thread);
            end.echoes()[1] > before[its][1] + 60
        });
    }
}

#[test]
#[ignore = "needs root; `make e2e` runs it"]
fn an_edit_of_a_profile_and_a_session_that_is_begun_anew_break_no_path() {
    let ends = joined(["172.22.0.1", "172.22.0.2"]);
    let is_up = |end: &End| end.count(|bfd| &bfd.session_up) == 1;
    let rest = |count: i64| {
        let before = ends.each_ref().map(|end| end.count(|bfd| &bfd.control_packet_input));
        move |end: &End, its: usize| end.count(|bfd| &bfd.control_packet_input) > before[its] + count
    };
    until("sessions", &ends, is_up);
    for passive_mode in [true, false] {
        ends[0].edits.send(Some(BfdProfile { passive_mode, ..ends[0].profile.clone() })).unwrap();
        let is_over = rest(20);
        until("another role", &ends, |end| {
            is_up(end) && is_over(end, usize::from(end.thread == ends[1].thread))
        });
    }
    // The former session says that its end is meant, and then leaves the path to the new one.
    for profile in [None, Some(ends[0].profile.clone())] {
        ends[0].edits.send(profile).unwrap();
    }
    let ups = |end: &End| end.count(|bfd| &bfd.session_up_events);
    let began = Instant::now();
    while !ends.iter().all(is_up) || ups(&ends[1]) < 2 || began.elapsed() < Duration::from_secs(5) {
        assert!(began.elapsed() < PATIENCE, "sessions up: {:?}", ends.each_ref().map(is_up));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ups(&ends[1]), 2, "the session came back once, and stayed");
    assert_eq!(ends.each_ref().map(|end| end.failures.load(Ordering::Relaxed)), [0, 0]);
}
