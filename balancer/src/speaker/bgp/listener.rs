//! Connections that routers open, on port 179, where `bgpListen` allows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::spec::Key;
use crate::speaker::sys;

/// Port of BGP (RFC 4271 §8.2.1).
const PORT: u16 = 179;
/// Connections that wait for the kernel to hand them over.
const QUEUE: i32 = 128;
/// Pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Passwords by router.
pub(super) type Keys = BTreeMap<IpAddr, Key>;
/// Interface (a VRF) that sockets are bound to.
type Device = Option<String>;

/// The sockets on which routers connect: two that take connections of all interfaces, and two for each that peers are bound
/// to. Routers in several VRFs may have one address; each has its own password, since each has its own socket.
pub(super) struct Listener {
    bound: BTreeMap<Device, Bound>,
    accept: mpsc::Sender<TcpStream>,
    accepted: mpsc::Receiver<TcpStream>,
}

impl Listener {
    /// Takes the port on all addresses of both families; connections are taken once it is known who must sign.
    ///
    /// # Errors
    /// When the port cannot be had, for example since another BGP speaker runs on the node.
    pub(super) fn open() -> anyhow::Result<Self> {
        let (accept, accepted) = mpsc::channel(16);
        let everywhere = Bound::bind(&None)?;
        Ok(Self { bound: BTreeMap::from([(None, everywhere)]), accept, accepted })
    }

    /// The next connection.
    pub(super) async fn next(&mut self) -> Option<TcpStream> {
        self.accepted.recv().await
    }

    /// Listens on these interfaces, and sets which routers must sign there, and with which passwords.
    pub(super) fn follow(&mut self, mut wanted: BTreeMap<Device, Keys>) {
        wanted.entry(None).or_default();
        self.bound.retain(|device, bound| wanted.contains_key(device) && bound.is_alive(device));
        if wanted.len() > 1
            && let Some(everywhere) = self.bound.get(&None)
        {
            for socket in &everywhere.sockets {
                // Should it fail, so does the next step, which says so.
                let _ = socket.set_reuse_port(true);
            }
        }
        for (device, keys) in wanted {
            if !self.bound.contains_key(&device) {
                match Bound::bind(&device) {
                    Ok(bound) => drop(self.bound.insert(device.clone(), bound)),
                    // Sessions that this node opens say so, too.
                    Err(error) => {
                        let (device, error) = (device.unwrap_or_default(), format!("{error:#}"));
                        tracing::warn!(device, error, "routers cannot connect on an interface");
                        continue;
                    }
                }
            }
            if let Some(bound) = self.bound.get_mut(&device) {
                bound.sign(keys);
                if let Err(error) = bound.listen(&self.accept) {
                    let (device, error) = (device.unwrap_or_default(), format!("{error:#}"));
                    tracing::warn!(device, error, "routers cannot connect on an interface");
                }
            }
        }
    }
}

/// The sockets of one interface, or of all.
struct Bound {
    /// Number of the interface; another one of that name has another.
    index: Option<u32>,
    /// Kept beside the listeners, to set the passwords of routers on.
    sockets: Vec<Socket>,
    keys: Keys,
    /// Those that take connections.
    tasks: JoinSet<()>,
}

impl Bound {
    fn bind(device: &Device) -> anyhow::Result<Self> {
        let index =
            device.as_deref().map(if_nametoindex).transpose().context("there is no such interface")?;
        let mut sockets = vec![];
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            let address = SocketAddr::new(any, PORT);
            let socket =
                bind(address, device.as_deref()).with_context(|| format!("cannot listen on {address}"))?;
            sockets.push(socket);
        }
        Ok(Self { index, sockets, keys: Keys::new(), tasks: JoinSet::new() })
    }

    /// Begins to take connections, unless it does so already.
    fn listen(&mut self, accept: &mpsc::Sender<TcpStream>) -> anyhow::Result<()> {
        if !self.tasks.is_empty() {
            return Ok(());
        }
        for socket in &self.sockets {
            socket.listen(QUEUE)?;
            let listener = TcpListener::from_std(socket.try_clone()?.into())?;
            self.tasks.spawn(take(listener, accept.clone()));
        }
        Ok(())
    }

    fn is_alive(&self, device: &Device) -> bool {
        self.index == device.as_deref().and_then(|name| if_nametoindex(name).ok())
    }

    fn sign(&mut self, wanted: Keys) {
        let gone =
            self.keys.keys().filter(|router| !wanted.contains_key(router)).map(|router| (*router, &[][..]));
        let fresh = wanted.iter().filter(|(router, key)| self.keys.get(router) != Some(key));
        for (router, key) in gone.chain(fresh.map(|(router, key)| (*router, key.bytes()))) {
            for socket in &self.sockets {
                let is_its = socket.domain().is_ok_and(|domain| (domain == Domain::IPV4) == router.is_ipv4());
                if !is_its {
                    continue;
                }
                if let Err(error) = sys::set_md5_key(socket, &SocketAddr::new(router, 0).into(), key) {
                    tracing::warn!(%router, %error, "the password of a router cannot be set");
                }
            }
        }
        self.keys = wanted;
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

async fn take(listener: TcpListener, accept: mpsc::Sender<TcpStream>) {
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
    use tokio::net::TcpSocket;

    use super::*;

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
