//! Gossip by TCP, for members that lose each other's UDP: each datagram behind its length (2 bytes, big-endian).
//!
//! Connections are opened when there is something to send, from the address of the gossip so that the other end knows
//! whose they are, and closed when they are idle. What cannot be sent now is dropped, as UDP would.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest time to open a connection: as long as the verification of a silent member lasts, and some.
const CONNECT: Duration = Duration::from_millis(300);
/// Silence after which a connection is closed.
const IDLE: Duration = Duration::from_secs(30);
/// Datagrams that wait for a connection.
const QUEUE: usize = 32;
/// Connections that are open at once.
const CONNECTIONS: usize = 512;

/// A datagram that arrived, and from where.
pub(super) type Arrival = (SocketAddr, Vec<u8>);

/// The connections of this member.
pub(super) struct Streams {
    local: SocketAddr,
    listener: TcpListener,
    arrivals: mpsc::Sender<Arrival>,
    writers: HashMap<IpAddr, mpsc::Sender<Vec<u8>>>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Streams {
    /// Listens on `local`. Datagrams that arrive go to `arrivals`.
    ///
    /// # Errors
    /// When the address cannot be bound, naming it.
    pub(super) async fn listen(local: SocketAddr, arrivals: mpsc::Sender<Arrival>) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(local).await.with_context(|| format!("gossip: cannot bind TCP {local}"))?;
        Ok(Self {
            local,
            listener,
            arrivals,
            writers: HashMap::new(),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            tasks: JoinSet::new(),
        })
    }

    /// Takes in one connection of another member.
    pub(super) async fn accept(&mut self) {
        tokio::select! {
            accepted = self.listener.accept() => match accepted {
                Ok((stream, from)) => self.take(stream, from),
                // Too many files, or a connection that is gone already: the next attempt may do better.
                Err(error) => {
                    tracing::debug!(%error, "gossip connection not accepted");
                    tokio::time::sleep(CONNECT).await;
                }
            },
            Some(_) = self.tasks.join_next() => {}
        }
    }

    /// Sends a datagram, by the connection that there is or by a new one.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        let open = self.writers.get(&to.ip()).filter(|writer| !writer.is_closed()).cloned();
        let writer = open.unwrap_or_else(|| self.connect(to));
        // Full when the other end is slow or the connection still opens: dropped, as UDP would.
        let _ = writer.try_send(bytes);
    }

    /// Sends what waits, and ends.
    pub(super) async fn finish(&mut self) {
        self.writers.clear();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(CONNECT, ended).await.is_err() {
            tracing::debug!("gossip by TCP ends with datagrams that were not sent");
        }
    }

    fn connect(&mut self, to: SocketAddr) -> mpsc::Sender<Vec<u8>> {
        let (writer, queue) = self.writer(to.ip());
        let (local, arrivals, places) = (self.local, self.arrivals.clone(), self.places.clone());
        self.tasks.spawn(async move {
            let Ok(_place) = places.try_acquire() else { return };
            match timeout(CONNECT, open(local, to)).await {
                Ok(Ok(stream)) => serve(stream, to, queue, arrivals).await,
                Ok(Err(error)) => tracing::debug!(%to, %error, "gossip connection not opened"),
                Err(_) => tracing::debug!(%to, "gossip connection not opened: no answer"),
            }
        });
        writer
    }

    fn take(&mut self, stream: TcpStream, from: SocketAddr) {
        let (_, queue) = self.writer(from.ip());
        let (arrivals, places) = (self.arrivals.clone(), self.places.clone());
        self.tasks.spawn(async move {
            let Ok(_place) = places.try_acquire() else { return };
            serve(stream, from, queue, arrivals).await;
        });
    }

    fn writer(&mut self, to: IpAddr) -> (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>) {
        self.writers.retain(|_, writer| !writer.is_closed());
        let (writer, queue) = mpsc::channel(QUEUE);
        self.writers.insert(to, writer.clone());
        (writer, queue)
    }
}

async fn open(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(local.ip(), 0))?;
    socket.connect(to).await
}

/// Moves datagrams both ways until one end is done or nothing has come for long.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    queue: mpsc::Receiver<Vec<u8>>,
    arrivals: mpsc::Sender<Arrival>,
) {
    // A heartbeat must not wait for the acknowledgement of the one before it.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let ended = tokio::select! {
        ended = read(reader, peer, arrivals) => ended,
        ended = write(writer, queue) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "gossip connection ended");
    }
}

async fn read(
    mut stream: OwnedReadHalf,
    peer: SocketAddr,
    arrivals: mpsc::Sender<Arrival>,
) -> io::Result<()> {
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        let mut bytes = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut bytes)).await??;
        if arrivals.send((peer, bytes)).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = queue.recv().await {
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_go_both_ways_over_one_connection_and_a_lost_one_is_replaced() {
        let (arrive_a, mut at_a) = mpsc::channel(8);
        let (arrive_b, mut at_b) = mpsc::channel(8);
        let mut a = Streams::listen("127.0.0.1:0".parse().unwrap(), arrive_a).await.unwrap();
        let mut b = Streams::listen("127.0.0.1:0".parse().unwrap(), arrive_b).await.unwrap();
        let to_b = b.listener.local_addr().unwrap();
        for round in 0..2_u8 {
            a.send(to_b, vec![round; 1000]);
            a.send(to_b, vec![]);
            b.accept().await;
            let (from, bytes) = at_b.recv().await.unwrap();
            assert_eq!(bytes, vec![round; 1000]);
            assert_eq!(at_b.recv().await.unwrap().1, Vec::<u8>::new());
            b.send(from, vec![7]);
            assert_eq!(at_a.recv().await.unwrap().1, vec![7]);
            a.tasks.abort_all();
            while a.tasks.join_next().await.is_some() {}
            while b.tasks.join_next().await.is_some() {}
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (arrivals, _keep) = mpsc::channel(8);
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = taken.local_addr().unwrap();
        let error = Streams::listen(local, arrivals).await.err().unwrap();
        assert_eq!(error.to_string(), format!("gossip: cannot bind TCP {local}"));
    }
}
