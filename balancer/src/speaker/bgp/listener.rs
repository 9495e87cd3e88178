//! Connections that routers open, on port 179, where `bgpListen` allows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
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

/// The sockets on which routers connect.
pub(super) struct Listener {
    /// Kept beside the listeners, to set the passwords of routers on.
    sockets: Vec<Socket>,
    keys: BTreeMap<IpAddr, Key>,
    accepted: mpsc::Receiver<TcpStream>,
    tasks: JoinSet<()>,
}

impl Listener {
    /// Listens on all addresses of both families.
    ///
    /// # Errors
    /// When the port cannot be had, for example since another BGP speaker runs on the node.
    pub(super) fn open() -> anyhow::Result<Self> {
        let (accept, accepted) = mpsc::channel(16);
        let mut listener = Self { sockets: vec![], keys: BTreeMap::new(), accepted, tasks: JoinSet::new() };
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            let address = SocketAddr::new(any, PORT);
            let socket = listen(address).with_context(|| format!("cannot listen on {address}"))?;
            listener.sockets.push(socket.try_clone()?);
            let socket = TcpListener::from_std(socket.into())?;
            listener.tasks.spawn(take(socket, accept.clone()));
        }
        Ok(listener)
    }

    /// The next connection.
    pub(super) async fn next(&mut self) -> Option<TcpStream> {
        self.accepted.recv().await
    }

    /// Sets which routers must sign, and with which passwords.
    pub(super) fn sign(&mut self, wanted: BTreeMap<IpAddr, Key>) {
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

fn listen(address: SocketAddr) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(QUEUE)?;
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
