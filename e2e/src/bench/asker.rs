//! Whoever asks a speaker by ARP: in a network namespace of its own, at the end of a cable.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike,
            SockaddrStorage, recv, sendto, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// Network namespace of whoever asks.
pub(crate) const ASKER: &str = "mlb-bench-l2";
/// The first announced address; as many as there are follow.
pub(crate) const FIRST: u32 = 0xc612_0000; // 198.18.0.0
/// Addresses that nobody announces.
const FOREIGN: u32 = 0xc613_0000; // 198.19.0.0

/// A packet socket at the asker's end of the cable.
pub(crate) struct Wire {
    socket: OwnedFd,
    to: LinkAddr,
    mac: [u8; 6],
}

impl Wire {
    pub(crate) fn open() -> Result<Self> {
        let open = || -> Result<Self> {
            let namespace = File::open(format!("/run/netns/{ASKER}"))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let found = getifaddrs()?.find_map(|interface| {
                let address: SockaddrStorage =
                    interface.address.filter(|_| interface.interface_name == "eth0")?;
                address.as_link_addr().copied()
            });
            let to = found.context("no interface eth0")?;
            let mac = to.addr().context("eth0 has no hardware address")?;
            ensure!(to.family() == Some(AddressFamily::Packet), "{to}");
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)?;
            Ok(Self { socket, to, mac })
        };
        std::thread::spawn(open).join().ok().context("the asker's thread broke off")?
    }

    /// The bytes of a question for `target` (RFC 826).
    fn question(&self, target: u32) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(self.mac);
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        frame.extend(self.mac);
        frame.extend(Ipv4Addr::new(198, 18, 255, 2).octets());
        frame.extend([0; 6]);
        frame.extend(target.to_be_bytes());
        frame
    }

    /// The bytes of the word of a host, one of many, that it has `address`.
    fn claim(&self, address: u32, host: u32) -> Vec<u8> {
        let [_, a, b, c] = host.to_be_bytes();
        let mac = [0x02, 0, 1, a, b, c];
        let mut frame = vec![0xff; 6];
        frame.extend(mac);
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
        frame.extend(mac);
        frame.extend(address.to_be_bytes());
        frame.extend([0xff; 6]);
        frame.extend(address.to_be_bytes());
        frame
    }

    fn send(&self, frame: &[u8]) -> nix::Result<usize> {
        sendto(self.socket.as_raw_fd(), frame, &self.to, MsgFlags::empty())
    }

    /// Asks for an address, and tells how long its answer took.
    pub(crate) fn ask(&self, target: u32, patience: Duration) -> Result<Option<Duration>> {
        let frame = self.question(target);
        let started = Instant::now();
        self.send(&frame)?;
        let mut buffer = [0; 64];
        while let Some(left) = patience.checked_sub(started.elapsed()) {
            let wait = TimeVal::microseconds(i64::try_from(left.as_micros())?.max(1));
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &wait)?;
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
            // An ARP reply whose sender is the target.
            let bytes = buffer.get(..length).unwrap_or_default();
            if bytes.get(12..14) == Some(&[0x08, 0x06])
                && bytes.get(20..22) == Some(&[0, 2])
                && bytes.get(28..32) == Some(&target.to_be_bytes())
            {
                return Ok(Some(started.elapsed()));
            }
        }
        Ok(None)
    }
}

/// Makes the frames of a flood, by their numbers.
pub(crate) type Frames = fn(&Wire, u32) -> Vec<u8>;

/// Frames at an even pace.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    /// Questions for foreign addresses.
    pub(crate) const FOREIGN: Frames = |wire, number| wire.question(FOREIGN + number * 61);
    /// Claims of an announced address, each of another host.
    pub(crate) const CLAIMS: Frames = |wire, number| wire.claim(FIRST + 1, number);

    pub(crate) fn start(frames: Frames, rate: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let wire = Wire::open()?;
            // What it sends is all it hears: a small buffer is soon full, and costs nothing more.
            setsockopt(&wire.socket, sockopt::RcvBuf, &1)?;
            let frames: Vec<Vec<u8>> = (0..1024).map(|number| frames(&wire, number)).collect();
            let started = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let due = u64::try_from(started.elapsed().as_micros())? * rate / 1_000_000;
                for number in counted.load(Ordering::Relaxed)..due {
                    let frame = frames.get(usize::try_from(number)? % frames.len()).context("no frames")?;
                    // A full queue is a frame less.
                    let _ = wire.send(frame);
                }
                counted.store(due, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        Self { stop, sent, thread }
    }

    /// Ends, and returns how many were sent.
    pub(crate) fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the flood broke off")??;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}
