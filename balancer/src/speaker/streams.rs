//! Gossip by TCP, for members that lose each other's UDP: each datagram behind its length (2 bytes, big-endian).
//!
//! A member sends by connections that it opened itself, to the address of the other, and receives by those that the other
//! opened: whoever connects with the address of a node, such as a pod behind it, gets nothing that is meant for the node.
//! Connections are opened when there is something to send and closed when they are idle. What cannot be sent now is
//! dropped, as UDP would.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Longest time to open a connection: as long as the verification of a silent member lasts, and some.
const CONNECT: Duration = Duration::from_millis(300);
/// Silence after which a connection is closed.
const IDLE: Duration = Duration::from_secs(30);
/// The same before its first datagram, which a member sends at once.
const FIRST: Duration = Duration::from_secs(1);
/// Datagrams that wait for a connection.
const QUEUE: usize = 32;
/// Connections of others that are open at once.
const CONNECTIONS: usize = 512;
/// Those of one address: so many that brought a datagram of a member, and as many that have not yet.
const OF_ONE: usize = 4;

/// A datagram that arrived.
pub(super) struct Arrival {
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
    /// The connection that it came by.
    pub(super) line: u64,
}

/// The connections of this member.
pub(super) struct Streams {
    local: SocketAddr,
    listener: TcpListener,
    arrivals: mpsc::Sender<Arrival>,
    /// Those that this member opened.
    writers: HashMap<IpAddr, mpsc::Sender<Vec<u8>>>,
    /// Those that others opened, the oldest first.
    lines: Vec<Line>,
    next_line: u64,
    tasks: JoinSet<()>,
}

/// A connection that another opened.
struct Line {
    number: u64,
    from: IpAddr,
    /// Whether a datagram of a member came by it.
    is_proven: bool,
    task: AbortHandle,
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
            lines: vec![],
            next_line: 0,
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

    /// A datagram that came by a connection was of a member, or was not: then the connection is closed.
    pub(super) fn judge(&mut self, line: u64, is_of_member: bool) {
        let Some(line) = self.lines.iter_mut().find(|open| open.number == line) else { return };
        if !is_of_member {
            tracing::debug!(from = %line.from, "gossip connection of no member closed");
            line.task.abort();
            return;
        }
        if !std::mem::replace(&mut line.is_proven, true) {
            let from = line.from;
            self.make_room(|open| open.is_proven && open.from == from, OF_ONE);
        }
    }

    /// Sends what waits, and ends.
    pub(super) async fn finish(&mut self) {
        self.writers.clear();
        self.lines.iter().for_each(|line| line.task.abort());
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(CONNECT, ended).await.is_err() {
            tracing::debug!("gossip by TCP ends with datagrams that were not sent");
        }
    }

    fn connect(&mut self, to: SocketAddr) -> mpsc::Sender<Vec<u8>> {
        self.writers.retain(|_, writer| !writer.is_closed());
        let (writer, queue) = mpsc::channel(QUEUE);
        self.writers.insert(to.ip(), writer.clone());
        let local = self.local;
        self.tasks.spawn(async move {
            let ended = match timeout(CONNECT, open(local, to)).await {
                Ok(Ok(stream)) => send_all(stream, queue).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            if let Err(error) = ended {
                tracing::debug!(%to, %error, "gossip connection not opened, or ended");
            }
        });
        writer
    }

    fn take(&mut self, stream: TcpStream, from: SocketAddr) {
        self.lines.retain(|line| !line.task.is_finished());
        let ip = from.ip();
        // A new one may be the member's, one that has brought nothing yet is hardly.
        self.make_room(|line| !line.is_proven && line.from == ip, OF_ONE - 1);
        let others = self.lines.iter().filter(|line| line.is_proven).count();
        self.make_room(|line| !line.is_proven, (CONNECTIONS - 1).saturating_sub(others));
        if self.lines.iter().filter(|line| !line.task.is_finished()).count() >= CONNECTIONS {
            return;
        }
        let (arrivals, number) = (self.arrivals.clone(), self.next_line);
        self.next_line += 1;
        let task = self.tasks.spawn(async move {
            if let Err(error) = receive_all(stream, from, number, arrivals).await {
                tracing::debug!(%from, %error, "gossip connection ended");
            }
        });
        self.lines.push(Line { number, from: ip, is_proven: false, task });
    }

    /// Closes the oldest of the chosen connections, until there are no more than `limit`.
    fn make_room(&mut self, chosen: impl Fn(&Line) -> bool, limit: usize) {
        let surplus = self.lines.iter().filter(|line| chosen(line)).count().saturating_sub(limit);
        let mut closed = 0;
        self.lines.retain(|line| {
            let closes = chosen(line) && closed < surplus;
            if closes {
                closed += 1;
                line.task.abort();
            }
            !closes
        });
    }
}

async fn open(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(local.ip(), 0))?;
    socket.connect(to).await
}

/// Sends datagrams until there are no more, none has come for long, or the other end is done.
async fn send_all(stream: TcpStream, queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    // A heartbeat must not wait for the acknowledgement of the one before it.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    tokio::select! {
        ended = write(writer, queue) => ended,
        () = closed(reader) => Ok(()),
    }
}

/// Nothing is sent back by the connection of another: whatever comes is its end.
async fn closed(mut stream: OwnedReadHalf) {
    let _ = stream.read_u8().await;
}

async fn write(mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Ok(Some(bytes)) = timeout(IDLE, queue.recv()).await {
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

async fn receive_all(
    mut stream: TcpStream,
    from: SocketAddr,
    line: u64,
    arrivals: mpsc::Sender<Arrival>,
) -> io::Result<()> {
    let mut patience = FIRST;
    loop {
        let read = async {
            let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut bytes).await?;
            io::Result::Ok(bytes)
        };
        let bytes = timeout(patience, read).await??;
        if arrivals.send(Arrival { from, bytes, line }).await.is_err() {
            return Ok(());
        }
        // Longer than the other end waits before it closes.
        patience = IDLE * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn listen() -> (Streams, SocketAddr, mpsc::Receiver<Arrival>) {
        let (arrivals, arrived) = mpsc::channel(8);
        let streams = Streams::listen("127.0.0.1:0".parse().unwrap(), arrivals).await.unwrap();
        let local = streams.listener.local_addr().unwrap();
        (streams, local, arrived)
    }

    /// Whether the other end has closed a connection.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        !matches!(timeout(FIRST * 2, stream.read_u8()).await, Ok(Ok(_)) | Err(_))
    }

    #[tokio::test]
    async fn datagrams_go_by_one_connection_and_a_lost_one_is_replaced() {
        let (mut a, _, _keep) = listen().await;
        let (mut b, to_b, mut at_b) = listen().await;
        for round in 0..2_u8 {
            a.send(to_b, vec![round; 1000]);
            a.send(to_b, vec![]);
            b.accept().await;
            assert_eq!(at_b.recv().await.unwrap().bytes, vec![round; 1000]);
            let second = at_b.recv().await.unwrap();
            assert_eq!((second.bytes, second.line), (vec![], u64::from(round)));
            a.tasks.abort_all();
            while a.tasks.join_next().await.is_some() {}
            while b.tasks.join_next().await.is_some() {}
        }
    }

    #[tokio::test]
    async fn who_connects_with_the_address_of_a_member_gets_nothing_of_what_is_sent_to_it() {
        let (mut a, to_a, _keep) = listen().await;
        let (mut b, to_b, mut at_b) = listen().await;
        let mut stranger = TcpStream::connect(to_a).await.unwrap();
        a.accept().await;
        a.send(to_b, vec![7]);
        b.accept().await;
        assert_eq!(at_b.recv().await.unwrap().bytes, vec![7]);
        assert!(is_closed(&mut stranger).await, "it said nothing for too long");
    }

    #[tokio::test]
    async fn connections_of_no_member_are_closed_and_keep_none_out() {
        let (mut a, to_a, mut at_a) = listen().await;
        let mut strangers = vec![];
        for _ in 0..OF_ONE {
            strangers.push(TcpStream::connect(to_a).await.unwrap());
            a.accept().await;
        }
        // The oldest makes room.
        let mut member = TcpStream::connect(to_a).await.unwrap();
        while a.lines.last().is_none_or(|line| line.number < 4) {
            a.accept().await;
        }
        assert!(is_closed(&mut strangers[0]).await);
        member.write_all(&[0, 1, 7]).await.unwrap();
        let arrival = at_a.recv().await.unwrap();
        a.judge(arrival.line, true);
        // A member's stays, however many come.
        for _ in 0..OF_ONE * 2 {
            strangers.push(TcpStream::connect(to_a).await.unwrap());
            let before = a.next_line;
            while a.next_line == before {
                a.accept().await;
            }
        }
        member.write_all(&[0, 1, 8]).await.unwrap();
        assert_eq!(at_a.recv().await.unwrap().bytes, vec![8]);
        // What is not sealed ends its connection.
        let mut stranger = strangers.pop().unwrap();
        stranger.write_all(&[0, 1, 9]).await.unwrap();
        let arrival = at_a.recv().await.unwrap();
        a.judge(arrival.line, false);
        assert!(is_closed(&mut stranger).await);
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
