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

/// Pause between two exchanges over one connection.
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
    threads: Vec<JoinHandle<Kept>>,
}

/// How often a byte went to and fro over one connection, and what broke it.
type Kept = (usize, Option<String>);

impl Held {
    /// Opens `count` connections to `port` of `address` and sends a byte over each, again and again. One on which no
    /// answer comes for `patience` is broken.
    ///
    /// # Errors
    /// When the connections cannot be opened.
    pub fn open(address: IpAddr, port: u16, count: usize, patience: Duration) -> Result<Self> {
        let target = SocketAddr::new(address, port);
        let open = move || -> Result<Vec<TcpStream>> {
            enter(&client())?;
            let open = |number: usize| {
                let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5));
                let mut stream = stream.with_context(|| format!("connection {number} to {target}"))?;
                stream.set_read_timeout(Some(patience))?;
                // Answered before the next one is opened: a small server keeps few that it has not accepted yet.
                exchange(&mut stream).with_context(|| format!("connection {number} to {target}"))?;
                Ok(stream)
            };
            (1..=count).map(open).collect()
        };
        let opening = std::thread::spawn(open).join();
        let streams = opening.map_err(|_| anyhow!("the client's thread ended early"))??;
        let stop = Arc::new(AtomicBool::new(false));
        let keep = |stream| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || hold(stream, &stop))
        };
        Ok(Self { threads: streams.into_iter().map(keep).collect(), stop })
    }

    /// Ends, and returns how often a byte went to and fro, and what broke which connection.
    ///
    /// # Errors
    /// When a thread broke off.
    pub fn close(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut answers, mut broken) = (0, Vec::new());
        for (number, thread) in self.threads.into_iter().enumerate() {
            let (more, end) = thread.join().map_err(|_| anyhow!("the client's thread ended early"))?;
            answers += more;
            broken.extend(end.map(|error| format!("connection {}: {error}", number + 1)));
        }
        Ok((answers, broken))
    }
}

fn hold(mut stream: TcpStream, stop: &AtomicBool) -> Kept {
    let mut answers = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = exchange(&mut stream) {
            return (answers, Some(error.to_string()));
        }
        answers += 1;
        std::thread::sleep(PAUSE);
    }
    (answers, None)
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}
