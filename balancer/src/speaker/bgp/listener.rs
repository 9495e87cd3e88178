//! Connections that routers open, on port 179, where `bgpListen` allows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::spec::Key;
use crate::speaker::sys;

/// Port of BGP (RFC 4271 §8.2.1).
pub(super) const PORT: u16 = 179;
/// Connections that wait for the kernel to hand them over.
const QUEUE: i32 = 128;
/// Pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause before what is not listened on is tried again, unless the links of the node change before.
const RETRY: Duration = Duration::from_secs(5);

/// Passwords by router.
pub(super) type Keys = BTreeMap<IpAddr, Key>;
/// Interface (a VRF) that sockets are bound to.
type Device = Option<String>;
/// Why routers cannot connect, by interface.
pub(super) type Problems = BTreeMap<Device, String>;

/// The sockets on which routers connect: two that take connections of all interfaces, and two for each that peers are bound
/// to. Routers in several VRFs may have one address; each has its own password, since each has its own socket.
pub(super) struct Listener {
    port: u16,
    /// Who must sign, on each interface.
    wanted: BTreeMap<Device, Keys>,
    /// That of the packets of all routers.
    least_ttl: Option<u8>,
    bound: BTreeMap<Device, Bound>,
    problems: Problems,
    /// By interface and router, why the kernel does not ask for the router's password.
    unsigned: BTreeMap<(Device, IpAddr), String>,
    retry: Option<Instant>,
    accept: mpsc::Sender<TcpStream>,
    accepted: mpsc::Receiver<TcpStream>,
}

impl Listener {
    /// One that listens nowhere yet: connections are taken once it is known who must sign.
    pub(super) fn new(port: u16) -> Self {
        let (accept, accepted) = mpsc::channel(16);
        Self {
            port,
            wanted: BTreeMap::new(),
            least_ttl: None,
            bound: BTreeMap::new(),
            problems: Problems::new(),
            unsigned: BTreeMap::new(),
            retry: None,
            accept,
            accepted,
        }
    }

    /// The next connection.
    pub(super) async fn next(&mut self) -> Option<TcpStream> {
        self.accepted.recv().await
    }

    /// Why routers cannot connect where they should.
    pub(super) fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Why a router cannot connect on an interface although connections are taken there: the kernel has not its password.
    pub(super) fn unsigned(&self, device: &Device, router: IpAddr) -> Option<&str> {
        self.unsigned.get(&(device.clone(), router)).map(String::as_str)
    }

    /// Whether a connection that a router opened on an interface was signed with this password.
    pub(super) fn is_signed(&self, device: Option<&str>, router: IpAddr, key: &Key) -> bool {
        // Those that no socket of their interface takes come to that of all.
        let own = device.and_then(|device| self.bound.get(&Some(device.to_owned())));
        let bound = own.or_else(|| self.bound.get(&None));
        bound.is_some_and(|bound| bound.keys.get(&router) == Some(key))
    }

    /// When [`Self::settle`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Listens on these interfaces, and sets which routers must sign there, and with which passwords, and the least TTL of
    /// their packets.
    pub(super) fn follow(&mut self, mut wanted: BTreeMap<Device, Keys>, least_ttl: Option<u8>) {
        wanted.entry(None).or_default();
        self.wanted = wanted;
        self.least_ttl = least_ttl;
        self.settle();
    }

    /// Listens where it is wanted and was not possible before: an interface may come at any time, and another program may let
    /// the port go. Returns whether [`Self::problems`] are others than before.
    pub(super) fn settle(&mut self) -> bool {
        let wanted = &self.wanted;
        self.bound.retain(|device, bound| wanted.contains_key(device) && bound.is_alive(device));
        let mut problems = Problems::new();
        for device in self.wanted.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.serve(&device) {
                problems.insert(device, format!("{error:#}"));
            }
        }
        for (device, error) in
            problems.iter().filter(|(device, error)| self.problems.get(*device) != Some(error))
        {
            // Sessions that this node opens do not depend on it.
            tracing::warn!(device = device.as_deref(), error, "routers cannot connect to this node");
        }
        for device in self.problems.keys().filter(|device| self.bound.contains_key(*device)) {
            if !problems.contains_key(device) {
                tracing::info!(device = device.as_deref(), "routers can connect to this node now");
            }
        }
        let unsigned: BTreeMap<_, _> = self
            .bound
            .iter()
            .flat_map(|(device, bound)| {
                bound.unsigned.iter().map(|(router, error)| ((device.clone(), *router), error.clone()))
            })
            .collect();
        for ((device, router), error) in &unsigned {
            if !self.unsigned.contains_key(&(device.clone(), *router)) {
                tracing::warn!(device = device.as_deref(), %router, error, "connections of a router whose password cannot be set are closed");
            }
        }
        self.retry = (!problems.is_empty() || !unsigned.is_empty()).then(|| Instant::now() + RETRY);
        let is_news = self.problems != problems || self.unsigned != unsigned;
        self.problems = problems;
        self.unsigned = unsigned;
        is_news
    }

    fn serve(&mut self, device: &Device) -> anyhow::Result<()> {
        if device.is_some() {
            // Until then it must have the port alone, so that another program there is noticed.
            let everywhere = self.bound.get(&None).context("they cannot on any interface")?;
            for socket in &everywhere.sockets {
                socket.set_reuse_port(true)?;
            }
        }
        if !self.bound.contains_key(device) {
            self.bound.insert(device.clone(), Bound::bind(device, self.port)?);
        }
        if let Some(bound) = self.bound.get_mut(device) {
            let none = Keys::new();
            bound.sign(self.wanted.get(device).unwrap_or(&none));
            bound.admit(self.least_ttl)?;
            bound.listen(&self.accept)?;
        }
        Ok(())
    }
}

/// The sockets of one interface, or of all.
struct Bound {
    /// Number of the interface; another one of that name has another.
    index: Option<u32>,
    /// Kept beside the listeners, to set the passwords of routers on.
    sockets: Vec<Socket>,
    /// Those that the kernel has.
    keys: Keys,
    /// Routers whose password the kernel did not take, and why.
    unsigned: BTreeMap<IpAddr, String>,
    /// Those that take connections.
    tasks: JoinSet<()>,
}

impl Bound {
    fn bind(device: &Device, port: u16) -> anyhow::Result<Self> {
        let index =
            device.as_deref().map(if_nametoindex).transpose().context("there is no such interface")?;
        let mut sockets = vec![];
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            let address = SocketAddr::new(any, port);
            match bind(address, device.as_deref()) {
                Ok(socket) => sockets.push(socket),
                // A node without IPv6 has no such routers.
                Err(error) if address.is_ipv6() && is_unknown(&error) => {}
                Err(error) => return Err(error.context(format!("cannot listen on {address}"))),
            }
        }
        Ok(Self { index, sockets, keys: Keys::new(), unsigned: BTreeMap::new(), tasks: JoinSet::new() })
    }

    /// Begins to take connections, unless it does so already.
    fn listen(&mut self, accept: &mpsc::Sender<TcpStream>) -> anyhow::Result<()> {
        if !self.tasks.is_empty() {
            return Ok(());
        }
        let mut tasks = JoinSet::new();
        for socket in &self.sockets {
            socket.listen(QUEUE)?;
            let listener = TcpListener::from_std(socket.try_clone()?.into())?;
            tasks.spawn(accept_all(listener, accept.clone()));
        }
        self.tasks = tasks;
        Ok(())
    }

    fn is_alive(&self, device: &Device) -> bool {
        self.index == device.as_deref().and_then(|name| if_nametoindex(name).ok())
    }

    /// Sets the passwords of routers. One that the kernel refuses is in [`Self::unsigned`], and tried again the next time.
    fn sign(&mut self, wanted: &Keys) {
        let gone: Vec<IpAddr> =
            self.keys.keys().filter(|router| !wanted.contains_key(router)).copied().collect();
        for router in gone {
            if let Err(error) = self.set_key(router, &[]) {
                tracing::warn!(%router, %error, "the former password of a router is still asked for");
            }
            self.keys.remove(&router);
        }
        self.unsigned.clear();
        for (router, key) in wanted {
            if self.keys.get(router) == Some(key) {
                continue;
            }
            match self.set_key(*router, key.bytes()) {
                Ok(()) => drop(self.keys.insert(*router, key.clone())),
                // What the kernel had before, it still has.
                Err(error) => drop(self.unsigned.insert(*router, error.to_string())),
            }
        }
    }

    /// Drops what arrives with a lower TTL, before there is a connection.
    fn admit(&self, least_ttl: Option<u8>) -> anyhow::Result<()> {
        for socket in &self.sockets {
            let is_v4 = socket.domain()? == Domain::IPV4;
            sys::set_minimum_ttl(socket, is_v4, least_ttl.unwrap_or(0))
                .context("cannot set the least TTL")?;
        }
        Ok(())
    }

    fn set_key(&self, router: IpAddr, key: &[u8]) -> std::io::Result<()> {
        let is_its = |socket: &&Socket| {
            socket.domain().is_ok_and(|domain| (domain == Domain::IPV4) == router.is_ipv4())
        };
        let mut sockets = self.sockets.iter().filter(is_its);
        sockets.try_for_each(|socket| sys::set_md5_key(socket, &SocketAddr::new(router, 0).into(), key))
    }
}

/// A socket to listen on. The first one at a port, that of all interfaces, must have it alone, so that another program there is
/// noticed; those of single interfaces share it, and the kernel delivers to them first.
fn bind(address: SocketAddr, device: Option<&str>) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes())).with_context(|| format!("cannot bind to {device:?}"))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(device.is_some())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether the kernel does not know the family of the address.
fn is_unknown(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

async fn accept_all(listener: TcpListener, accept: mpsc::Sender<TcpStream>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if accept.send(stream).await.is_err() {
                    return;
                }
            }
            // Too many files, or a connection that is gone already.
            Err(error) => {
                tracing::debug!(%error, "connection not taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn what_could_not_be_listened_on_is_tried_again_and_told_meanwhile() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let router = other.local_addr().unwrap();
        let mut listener = Listener::new(router.port());
        let lo = Some("lo".to_owned());
        listener.follow([(lo.clone(), Keys::new()), (Some("none".to_owned()), Keys::new())].into(), None);
        let words = |listener: &Listener| -> Vec<String> {
            let said = listener.problems().iter();
            said.map(|(device, error)| format!("{}: {error}", device.as_deref().unwrap_or("all"))).collect()
        };
        let all =
            format!("all: cannot listen on 0.0.0.0:{}: Address already in use (os error 98)", router.port());
        let nowhere = |device: &str| format!("{device}: they cannot on any interface");
        assert_eq!(words(&listener), [all, nowhere("lo"), nowhere("none")]);
        assert!(!listener.settle(), "nothing is different");
        assert!(listener.deadline().is_some_and(|deadline| deadline > Instant::now()));
        drop(other);
        assert!(listener.settle());
        let missing = "none: there is no such interface: ENODEV: No such device";
        assert_eq!(words(&listener), [missing]);
        assert!(listener.deadline().is_some(), "it may come");
        let mut stream = std::net::TcpStream::connect(router).unwrap();
        let accepted = listener.next().await.unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), stream.local_addr().unwrap());
        drop(accepted);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        listener.follow([(lo, Keys::new())].into(), None);
        assert_eq!((words(&listener), listener.deadline()), (vec![], None));
    }

    #[tokio::test]
    async fn a_router_whose_password_the_kernel_does_not_take_is_not_let_in() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let router = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut listener = Listener::new(free.port());
        let key = |length: usize| Key::new(&vec![b'x'; length]);
        let keys = |length: usize| BTreeMap::from([(None, Keys::from([(router, key(length))]))]);
        listener.follow(keys(81), None);
        assert_eq!(listener.unsigned(&None, router), Some("a password has at most 80 bytes"));
        assert!(listener.deadline().is_some(), "it is tried again");
        let mut stream = std::net::TcpStream::connect(free).unwrap();
        let accepted = listener.next().await.unwrap();
        assert!(!listener.is_signed(None, router, &key(81)), "nothing kept this connection out");
        drop(accepted);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        listener.follow(keys(80), None);
        assert_eq!((listener.unsigned(&None, router), listener.deadline()), (None, None));
        assert!(listener.is_signed(None, router, &key(80)));
        assert!(listener.is_signed(Some("red"), router, &key(80)), "it has no socket of its own");
        assert!(!listener.is_signed(None, router, &key(79)), "it is another one by now");
        listener.follow(keys(81), None);
        assert!(listener.is_signed(None, router, &key(80)), "the kernel goes on asking for the former one");
        assert!(!listener.is_signed(None, router, &key(81)));
    }

    #[tokio::test]
    async fn packets_from_too_far_away_open_no_connection() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut listener = Listener::new(free.port());
        let connect = |ttl: u32| async move {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.set_ttl_v4(ttl).unwrap();
            tokio::time::timeout(PAUSE, TcpSocket::from_std_stream(socket.into()).connect(free)).await
        };
        listener.follow(BTreeMap::new(), Some(254));
        assert!(connect(253).await.is_err(), "what is dropped is not answered");
        connect(254).await.unwrap().unwrap();
        listener.follow(BTreeMap::new(), None);
        connect(1).await.unwrap().unwrap();
    }

    /// Shown on loopback: VRFs need rights that tests do not have.
    #[tokio::test]
    async fn a_router_has_the_password_of_the_interface_that_it_comes_by() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let everywhere = bind(address, None).unwrap();
        everywhere.listen(QUEUE).unwrap();
        let address = everywhere.local_addr().unwrap().as_socket().unwrap();
        let another = bind(address, None).unwrap_err();
        let io = another.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(io, Some(std::io::ErrorKind::AddrInUse), "another program is noticed");
        everywhere.set_reuse_port(true).unwrap();
        let lo = bind(address, Some("lo")).unwrap();
        let router = SocketAddr::from(([127, 0, 0, 1], 0));
        sys::set_md5_key(&everywhere, &router.into(), b"everywhere").unwrap();
        sys::set_md5_key(&lo, &router.into(), b"lo").unwrap();
        lo.listen(QUEUE).unwrap();
        let [everywhere, lo] = [everywhere, lo].map(|socket| TcpListener::from_std(socket.into()).unwrap());
        let connect = |key: &'static [u8]| async move {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            if !key.is_empty() {
                sys::set_md5_key(&socket, &address.into(), key).unwrap();
            }
            TcpSocket::from_std_stream(socket.into()).connect(address).await
        };
        let accept = lo.accept();
        let (connected, accepted) = tokio::join!(connect(b"lo"), accept);
        connected.unwrap();
        let (stream, _) = accepted.unwrap();
        let device = socket2::SockRef::from(&stream).device().unwrap();
        assert_eq!(device, Some(b"lo".to_vec()), "which peer it is for is told by the interface");
        // Segments with the other password are dropped: whoever sends them waits.
        for key in [&b"everywhere"[..], b""] {
            let wrong = tokio::time::timeout(PAUSE, connect(key)).await;
            assert!(wrong.is_err(), "{wrong:?}");
        }
        drop(everywhere);
    }
}
