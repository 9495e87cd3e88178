//! Connections that stay open: whether any of many breaks while something happens to the cluster.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{layout::client, outage::enter};

/// How long an answer may take: longer than it takes to find out anew where an address is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two rounds over all connections.
const PAUSE: Duration = Duration::from_millis(100);

/// Port of the Service of [`echo`].
pub const PORT: u16 = 7777;

/// A Deployment `echo` of three pods, one a node, that send back what they are sent, and a Service of that name with an
/// address of `pool`.
#[must_use]
pub fn echo(namespace: &str, pool: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo, namespace: {namespace}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {{matchLabels: {{app: echo}}}}
      containers:
      - name: echo
        image: lab.local/busybox:1
        imagePullPolicy: Never
        command: [busybox, nc, -ll, -p, '{PORT}', -e, busybox, cat]
---
apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: {namespace}, annotations: {{metallb.io/address-pool: {pool}}}}}
spec: {{type: LoadBalancer, externalTrafficPolicy: Local, selector: {{app: echo}}, ports: [{{port: {PORT}}}]}}
"
    )
}

/// Connections from host client to a server that sends back what it is sent.
pub struct Held {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(usize, Vec<String>)>>,
}

impl Held {
    /// Opens `count` connections to `port` of `address` and sends a byte over each, again and again.
    #[must_use]
    pub fn open(address: IpAddr, port: u16, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let target = SocketAddr::new(address, port);
        Self { stop, thread: std::thread::spawn(move || hold(target, count, &stopped)) }
    }

    /// Whether it has failed already.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends, and returns how often a byte went to and fro, and what broke which connection.
    ///
    /// # Errors
    /// When the connections could not be opened.
    pub fn close(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client's thread ended early"))?
    }
}

fn hold(target: SocketAddr, count: usize, stop: &AtomicBool) -> Result<(usize, Vec<String>)> {
    enter(&client())?;
    let open = |number: usize| {
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5));
        let mut stream = stream.with_context(|| format!("connection {number} to {target}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Answered before the next one is opened: a small server keeps few that it has not accepted yet.
        exchange(&mut stream).with_context(|| format!("connection {number} to {target}"))?;
        Ok((number, stream))
    };
    let mut streams: Vec<(usize, TcpStream)> = (1..=count).map(open).collect::<Result<_>>()?;
    let (mut answers, mut broken) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        streams.retain_mut(|(number, stream)| match exchange(stream) {
            Ok(()) => {
                answers += 1;
                true
            }
            Err(error) => {
                broken.push(format!("connection {number}: {error}"));
                false
            }
        });
        std::thread::sleep(PAUSE);
    }
    Ok((answers, broken))
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}
