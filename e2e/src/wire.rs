//! Who answers for an address on the wire, all the time: a client that does nothing but ask, and a capture of the
//! answers, counted by the node that gave them.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use crate::{
    exec::{on, output, wait_until},
    observe::nodes_by_mac,
};

/// Answers of two nodes that follow each other within this time are given at the same time.
const TOGETHER: f64 = 0.1;

/// An answer: when it came, in seconds of the capture's clock, and which node gave it, or its hardware address when no
/// node has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Seconds.
    pub at: f64,
    /// Name of a node.
    pub node: String,
}

/// What a capture says about one stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Longest time without an answer.
    pub silence: Duration,
    /// Longest time in which two nodes gave answers.
    pub contested: Duration,
    /// The nodes in the order in which each became the only one that answers.
    pub owners: Vec<String>,
    /// Number of answers by node.
    pub answers: BTreeMap<String, usize>,
}

/// Asks for an address every few milliseconds from host client, and captures the answers.
pub struct Watch {
    asking: Child,
    capture: Child,
    file: PathBuf,
    address: IpAddr,
}

impl Watch {
    /// Starts asking by ARP for an IPv4 address, and by NDP for an IPv6 address.
    ///
    /// # Errors
    /// When a program cannot be started, or nobody answers within five seconds.
    pub fn start(address: IpAddr) -> Result<Self> {
        let watch = Self::begin(address)?;
        wait_until("the first captured answer", Duration::from_secs(5), || {
            let answers = watch.answers()?;
            Ok(answers.is_empty().then(|| "no answer".to_owned()))
        })?;
        Ok(watch)
    }

    /// The same for an address for which nobody has to answer yet.
    ///
    /// # Errors
    /// When a program cannot be started, or nothing is captured within five seconds.
    pub fn begin(address: IpAddr) -> Result<Self> {
        let file = std::env::temp_dir().join(format!(
            "metallb-e2e-{}-{}.pcap",
            std::process::id(),
            fingerprint(address)
        ));
        let filter = match address {
            IpAddr::V4(address) => format!("arp[6:2] = 2 and src host {address}"),
            IpAddr::V6(_) => "icmp6[icmp6type] = icmp6-neighboradvert".to_owned(),
        };
        let capture = on("client", "tcpdump")
            .args(["--immediate-mode", "-U", "-n", "-Q", "in", "-i", "eth0", "-w"])
            .arg(&file)
            .arg(filter)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("tcpdump")?;
        let asking = match address {
            IpAddr::V4(_) => on("client", "arping")
                .args(["-q", "-W", "0.005", "-i", "eth0"])
                .arg(address.to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn(),
            IpAddr::V6(_) => {
                let ask = format!("while :; do ndisc6 -q -1 -r 1 -w 20 {address} eth0 >/dev/null 2>&1; done");
                on("client", "sh").args(["-c", &ask]).stdin(Stdio::null()).spawn()
            }
        };
        let watch = Self { asking: asking.context("cannot ask on the wire")?, capture, file, address };
        // tcpdump writes the head of its file once it captures.
        wait_until("the capture", Duration::from_secs(5), || {
            let begun = fs::metadata(&watch.file).is_ok_and(|file| file.len() > 0);
            Ok((!begun).then(|| "no file".to_owned()))
        })?;
        Ok(watch)
    }

    /// All answers so far.
    ///
    /// # Errors
    /// When the capture cannot be read.
    pub fn answers(&self) -> Result<Vec<Answer>> {
        let shown =
            output(std::process::Command::new("tcpdump").args(["-n", "-e", "-tt", "-r"]).arg(&self.file));
        // The last record may still be in the making.
        let shown = shown.or_else(|error| {
            let partial = std::process::Command::new("tcpdump")
                .args(["-n", "-e", "-tt", "-r"])
                .arg(&self.file)
                .output()?;
            if partial.stdout.is_empty() {
                Err(error)
            } else {
                Ok(String::from_utf8_lossy(&partial.stdout).into_owned())
            }
        })?;
        Ok(parse(&shown, self.address, &nodes_by_mac()?))
    }

    /// Stops, and tells what happened.
    ///
    /// # Errors
    /// When the capture cannot be read, or ends without an answer for a second.
    pub fn stop(self) -> Result<Account> {
        let answers = self.answers()?;
        ensure!(!answers.is_empty(), "nobody answered for {}", self.address);
        Ok(account(&answers))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for child in [&mut self.asking, &mut self.capture] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(&self.file);
    }
}

fn fingerprint(address: IpAddr) -> String {
    address.to_string().replace([':', '.'], "-")
}

/// Reads what `tcpdump -e -tt` prints.
fn parse(text: &str, address: IpAddr, nodes: &BTreeMap<String, String>) -> Vec<Answer> {
    let marks = [format!("{address} is-at"), format!("tgt is {address},")];
    text.lines()
        .filter(|line| marks.iter().any(|mark| line.contains(mark)))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let at = words.next()?.parse().ok()?;
            let mac = words.next()?.to_lowercase();
            Some(Answer { at, node: nodes.get(&mac).cloned().unwrap_or(mac) })
        })
        .collect()
}

/// How long after `mark`, in seconds of the capture's clock, another node than the last one still answered.
#[must_use]
pub fn two_owners_after(answers: &[Answer], mark: f64) -> Duration {
    let last = answers.last().map(|answer| answer.node.as_str());
    let other = answers.iter().rev().find(|answer| Some(answer.node.as_str()) != last);
    Duration::from_secs_f64(other.map_or(0.0, |answer| (answer.at - mark).max(0.0)))
}

/// The time now by the capture's clock, in seconds.
#[must_use]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Sums answers up.
#[must_use]
pub fn account(answers: &[Answer]) -> Account {
    let mut account = Account::default();
    let (mut silence, mut contested) = (0.0_f64, 0.0_f64);
    // Since when two nodes answer, and when they did last.
    let mut contest: Option<(f64, f64)> = None;
    for pair in answers.windows(2) {
        let [before, after] = pair else { continue };
        silence = silence.max(after.at - before.at);
        if before.node != after.node && after.at - before.at < TOGETHER {
            contest = match contest {
                Some((since, last)) if before.at - last < TOGETHER => Some((since, after.at)),
                _ => Some((before.at, after.at)),
            };
            let (since, until) = contest.unwrap_or_default();
            contested = contested.max(until - since);
        }
    }
    for answer in answers {
        *account.answers.entry(answer.node.clone()).or_default() += 1;
    }
    // A node owns the address when it alone answers for a while.
    for answer in answers {
        let alone = answers
            .iter()
            .filter(|other| (other.at - answer.at).abs() < TOGETHER)
            .all(|other| other.node == answer.node);
        if alone && account.owners.last() != Some(&answer.node) {
            account.owners.push(answer.node.clone());
        }
    }
    account.silence = Duration::from_secs_f64(silence);
    account.contested = Duration::from_secs_f64(contested);
    account
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(times: &[(f64, &str)]) -> Vec<Answer> {
        times.iter().map(|(at, node)| Answer { at: *at, node: (*node).to_owned() }).collect()
    }

    #[test]
    fn silence_contest_and_owners_are_told_apart() {
        let clean = account(&answers(&[(1.0, "a"), (1.1, "a"), (1.6, "b"), (1.8, "b")]));
        assert_eq!(clean.silence.as_millis(), 500);
        assert_eq!(clean.contested, Duration::ZERO);
        assert_eq!(clean.owners, ["a", "b"]);
        let contested = account(&answers(&[
            (1.0, "a"),
            (1.2, "a"),
            (1.21, "b"),
            (1.25, "a"),
            (1.3, "b"),
            (1.5, "b"),
            (1.7, "b"),
        ]));
        assert_eq!(contested.contested.as_millis(), 100);
        assert_eq!(contested.owners, ["a", "b"]);
        assert_eq!(contested.answers, [("a".to_owned(), 3), ("b".to_owned(), 4)].into());
    }

    #[test]
    fn the_loser_of_a_contest_is_timed_from_the_mark() {
        let all = answers(&[(1.0, "a"), (1.5, "b"), (2.25, "a"), (2.5, "b")]);
        assert_eq!(two_owners_after(&all, 2.0).as_millis(), 250);
        assert_eq!(two_owners_after(&all, 2.4), Duration::ZERO);
        assert_eq!(two_owners_after(&all[..1], 0.0), Duration::ZERO);
    }

    #[test]
    fn what_tcpdump_prints_is_read() {
        let nodes = [("02:00:00:00:00:01".to_owned(), "node1".to_owned())].into();
        let text = "1700000000.250000 02:00:00:00:00:01 > 02:00:00:00:00:09, ethertype ARP (0x0806), length 42: Reply 172.22.0.100 is-at 02:00:00:00:00:01, length 28\n\
                    1700000000.500000 02:00:00:00:00:01 > 02:00:00:00:00:09, ethertype ARP (0x0806), length 42: Reply 172.22.0.10 is-at 02:00:00:00:00:01, length 28\n\
                    1700000000.750000 02:00:00:00:00:07 > 33:33:00:00:00:01, ethertype IPv6 (0x86dd), length 86: fd00:22::100 > ff02::1: ICMP6, neighbor advertisement, tgt is fd00:22::100, length 32\n";
        let v4 = parse(text, "172.22.0.100".parse().unwrap(), &nodes);
        assert_eq!(v4, [Answer { at: 1_700_000_000.25, node: "node1".to_owned() }]);
        let v6 = parse(text, "fd00:22::100".parse().unwrap(), &nodes);
        assert_eq!(v6, [Answer { at: 1_700_000_000.75, node: "02:00:00:00:00:07".to_owned() }]);
    }
}
