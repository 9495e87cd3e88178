//! What became of the operator's writes, so that it neither hammers a server that refuses nor fights for ever with
//! somebody who writes the same field.
//!
//! Pure: the time comes in.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use crate::{drift::Difference, kinds::Key};

/// First pause after a failed write; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// As many repairs of one object within [`WINDOW`] are a quarrel with another writer.
const QUARREL: usize = 5;
/// As many times an object that is made again may be deleted within [`WINDOW`]: people delete several in a row.
const DELETIONS: usize = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Longest pause between repairs in a quarrel.
const LONGEST_TRUCE: Duration = Duration::from_secs(300);

/// What became of past writes, by object.
#[derive(Debug, Default)]
pub struct Attempts {
    failures: BTreeMap<Key, Failure>,
    repairs: BTreeMap<Key, Repairs>,
    /// What was written last, or found to be there as it was to be.
    written: BTreeMap<Key, Value>,
    settled: BTreeMap<Key, Difference>,
}

#[derive(Debug)]
struct Failure {
    /// What could not be written: something else may be tried at once.
    wanted: Value,
    count: u32,
    message: String,
    hold: Hold,
}

/// A pause between two writes. A clock that is set back ends it: it would last too long.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: Timestamp,
    until: Timestamp,
}

impl Hold {
    fn new(from: Timestamp, pause: Duration) -> Self {
        Self { from, until: after(from, pause) }
    }

    fn lasts(self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

#[derive(Debug)]
struct Repairs {
    /// What it was about; nothing where the object was deleted.
    last: Option<Difference>,
    times: Vec<Timestamp>,
    deletions: Vec<Timestamp>,
    truces: u32,
    hold: Hold,
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(most)
}

fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

/// What is wanted of an object, whatever version of it that is written over.
fn essence(wanted: &Value) -> Value {
    let mut essence = wanted.clone();
    if let Some(metadata) = essence.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    essence
}

impl Attempts {
    /// The time until which `wanted` is not to be written to `key`, if that is in the future.
    #[must_use]
    pub fn held_until(&self, key: &Key, wanted: &Value, now: Timestamp) -> Option<Timestamp> {
        let failure = self.failed_before(key, wanted).map(|failure| failure.hold);
        let truce = self.repairs.get(key).filter(|_| self.written.get(key) == Some(&essence(wanted)));
        let holds = failure.into_iter().chain(truce.map(|repairs| repairs.hold));
        holds.filter(|hold| hold.lasts(now)).map(|hold| hold.until).max()
    }

    /// Why writing `wanted` to `key` failed the last time.
    #[must_use]
    pub fn failure(&self, key: &Key, wanted: &Value) -> Option<&str> {
        self.failed_before(key, wanted).map(|failure| failure.message.as_str())
    }

    fn failed_before(&self, key: &Key, wanted: &Value) -> Option<&Failure> {
        self.failures.get(key).filter(|failure| failure.wanted == essence(wanted))
    }

    /// Quarrels that go on, and about what.
    pub fn quarrels(&self, now: Timestamp) -> impl Iterator<Item = String> {
        self.repairs.iter().filter(move |(_, repairs)| repairs.is_quarrel(now)).map(|(key, repairs)| {
            let what = repairs.last.as_ref().map_or("somebody deletes it".to_owned(), Difference::to_string);
            format!("{key}: {what}, again and again; it is repaired at longer intervals until that ends")
        })
    }

    /// Whether `difference` is one that applying does not remove, because the server writes the value its own way.
    #[must_use]
    pub fn is_settled(&self, key: &Key, difference: &Difference) -> bool {
        self.settled.get(key) == Some(difference)
    }

    /// Whether it is known what was written to `key` last.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.written.contains_key(key)
    }

    /// Notes that `key` was found as `wanted`: somebody wrote it before, so that whoever changes it now undoes that.
    pub fn found(&mut self, key: Key, wanted: &Value) {
        self.written.entry(key).or_insert_with(|| essence(wanted));
    }

    /// Notes that `wanted` could not be written to `key`.
    pub fn failed(&mut self, key: &Key, wanted: &Value, message: String, now: Timestamp) {
        let before = self.failed_before(key, wanted).map_or(0, |failure| failure.count);
        let hold = Hold::new(now, doubled(FIRST_PAUSE, before, LONGEST_PAUSE));
        let failure = Failure { wanted: essence(wanted), count: before.saturating_add(1), message, hold };
        self.failures.insert(key.clone(), failure);
    }

    /// Notes that `wanted` was written to `key` because of `found`, and that `left` differs all the same. Whether
    /// that was a repair: the same was written before, so that somebody must have changed it.
    pub fn succeeded(
        &mut self,
        key: &Key,
        wanted: &Value,
        found: Option<Difference>,
        left: Option<Difference>,
        now: Timestamp,
    ) -> bool {
        self.failures.remove(key);
        let wanted = essence(wanted);
        let repaired = self.written.insert(key.clone(), wanted.clone()).as_ref() == Some(&wanted);
        match left {
            Some(left) => self.settled.insert(key.clone(), left),
            None => self.settled.remove(key),
        };
        if !repaired {
            return false;
        }
        let repairs = self.repairs.entry(key.clone()).or_insert_with(|| Repairs {
            last: None,
            times: Vec::new(),
            deletions: Vec::new(),
            truces: 0,
            hold: Hold::new(now, Duration::ZERO),
        });
        repairs.note(found, now);
        true
    }

    /// Notes that the status of `key` was written. Who overwrites it changes no object.
    pub fn reported(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// Notes that `key` was deleted as planned.
    pub fn removed(&mut self, key: &Key) {
        self.failures.remove(key);
        self.repairs.remove(key);
        self.written.remove(key);
        self.settled.remove(key);
    }
}

impl Repairs {
    fn are_many(&self, now: Timestamp) -> bool {
        let recent =
            |times: &[Timestamp]| times.iter().filter(|time| Hold::new(**time, WINDOW).lasts(now)).count();
        recent(&self.times) >= QUARREL || recent(&self.deletions) >= DELETIONS
    }

    fn is_quarrel(&self, now: Timestamp) -> bool {
        self.are_many(now) || (self.truces > 0 && self.last_truce().lasts(now))
    }

    /// The last truce and a while behind it, in which a repair goes on with the quarrel.
    fn last_truce(&self) -> Hold {
        Hold { until: after(self.hold.until, WINDOW), ..self.hold }
    }

    fn note(&mut self, difference: Option<Difference>, now: Timestamp) {
        let goes_on = self.is_quarrel(now);
        let times = if difference.is_some() { &mut self.times } else { &mut self.deletions };
        times.retain(|time| Hold::new(*time, WINDOW).lasts(now));
        times.push(now);
        self.last = difference;
        if goes_on || self.are_many(now) {
            self.hold = Hold::new(now, doubled(Duration::from_secs(1), self.truces, LONGEST_TRUCE));
            self.truces = self.truces.saturating_add(1);
        } else {
            self.truces = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;

    fn key() -> Key {
        Key { kind: Kind::Deployment, namespace: "ns".to_owned(), name: "controller".to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn difference() -> Difference {
        Difference {
            field: "spec.replicas".to_owned(),
            wanted: Some(1.into()),
            found: Some(0.into()),
            owner: Some("autoscaler".to_owned()),
        }
    }

    #[test]
    fn failures_are_tried_again_at_growing_intervals_and_something_else_at_once() {
        let mut attempts = Attempts::default();
        let (bad, good) = (Value::from("bad"), Value::from("good"));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            attempts.failed(&key(), &bad, "refused".to_owned(), at(0));
            let until = attempts.held_until(&key(), &bad, at(0)).unwrap();
            pauses.push(until.duration_since(at(0)).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(attempts.failure(&key(), &bad), Some("refused"));
        assert_eq!(attempts.failure(&key(), &good), None);
        assert_eq!(attempts.held_until(&key(), &good, at(0)), None);
        attempts.succeeded(&key(), &good, None, None, at(1));
        assert_eq!(attempts.held_until(&key(), &bad, at(1)), None);
    }

    #[test]
    fn a_quarrel_is_slowed_down_named_and_ends() {
        let mut attempts = Attempts::default();
        let mut now = at(0);
        let wanted = Value::from("one replica");
        assert!(!attempts.succeeded(&key(), &wanted, None, None, now), "created");
        let mut repaired_at = Vec::new();
        for _ in 0..8 {
            now = attempts.held_until(&key(), &wanted, now).unwrap_or(now);
            assert!(attempts.succeeded(&key(), &wanted, Some(difference()), None, now));
            repaired_at.push(now.as_second());
        }
        assert_eq!(
            attempts.held_until(&key(), &Value::from("two replicas"), now),
            None,
            "a new wish need not wait"
        );
        assert_eq!(repaired_at, [0, 0, 0, 0, 0, 1, 3, 7]);
        assert_eq!(
            attempts.quarrels(now).collect::<Vec<_>>(),
            [
                "Deployment ns/controller: spec.replicas is 0 instead of 1, set by autoscaler, again and again; it is \
              repaired at longer intervals until that ends"
            ]
        );
        assert_eq!(attempts.quarrels(at(1000)).count(), 0);
        attempts.succeeded(&key(), &wanted, Some(difference()), None, at(1000));
        assert_eq!(attempts.held_until(&key(), &wanted, at(1000)), None, "one repair later is no quarrel");
    }

    #[test]
    fn who_deletes_an_object_again_and_again_is_slowed_down_and_told_of_too() {
        let mut attempts = Attempts::default();
        let wanted = Value::from("one replica");
        attempts.succeeded(&key(), &wanted, None, None, at(0));
        for _ in 1..DELETIONS {
            assert!(attempts.succeeded(&key(), &wanted, None, None, at(0)));
        }
        assert_eq!(
            (attempts.held_until(&key(), &wanted, at(0)), attempts.quarrels(at(0)).count()),
            (None, 0)
        );
        for pause in [1, 2] {
            attempts.succeeded(&key(), &wanted, None, None, at(0));
            assert_eq!(attempts.held_until(&key(), &wanted, at(0)), Some(at(pause)));
        }
        assert_eq!(
            attempts.quarrels(at(0)).collect::<Vec<_>>(),
            [
                "Deployment ns/controller: somebody deletes it, again and again; it is repaired at longer intervals until \
              that ends"
            ]
        );
    }

    #[test]
    fn who_overwrites_a_status_deletes_nothing() {
        let mut attempts = Attempts::default();
        let status = Value::from("ready");
        attempts.failed(&key(), &status, "refused".to_owned(), at(0));
        for _ in 0..=DELETIONS {
            attempts.reported(&key());
        }
        let held = attempts.held_until(&key(), &status, at(0));
        assert_eq!((held, attempts.quarrels(at(0)).count()), (None, 0));
    }

    #[test]
    fn a_clock_that_jumps_ends_a_pause_and_a_quarrel_rather_than_drawing_them_out() {
        let mut attempts = Attempts::default();
        let wanted = Value::from("one replica");
        attempts.succeeded(&key(), &wanted, None, None, at(10_000));
        for _ in 0..5 {
            attempts.succeeded(&key(), &wanted, Some(difference()), None, at(10_000));
        }
        attempts.failed(&key(), &wanted, "refused".to_owned(), at(10_000));
        assert!(attempts.held_until(&key(), &wanted, at(10_000)).is_some());
        assert_eq!(attempts.quarrels(at(10_000)).count(), 1);
        for jumped in [0, 20_000] {
            assert_eq!(attempts.held_until(&key(), &wanted, at(jumped)), None);
            assert_eq!(attempts.quarrels(at(jumped)).count(), 0);
        }
    }

    #[test]
    fn after_a_start_what_was_found_as_wanted_and_then_changed_is_repaired() {
        let mut attempts = Attempts::default();
        let (one, two) = (Value::from("one replica"), Value::from("two replicas"));
        assert!(!attempts.knows(&key()));
        attempts.found(key(), &one);
        assert!(attempts.knows(&key()));
        assert!(!attempts.succeeded(&key(), &two, Some(difference()), None, at(0)), "another wish");
        attempts.found(key(), &one);
        assert!(attempts.succeeded(&key(), &two, Some(difference()), None, at(0)), "the last write counts");
        let mut attempts = Attempts::default();
        attempts.found(key(), &one);
        assert!(attempts.succeeded(&key(), &one, None, None, at(0)), "deleted");
    }

    #[test]
    fn the_version_that_is_written_over_makes_no_other_wish_of_it() {
        let mut attempts = Attempts::default();
        let over = |version: usize| serde_json::json!({"metadata": {"name": "s", "resourceVersion": version.to_string()}, "data": {"key": "a"}});
        let repaired: Vec<_> = (0..6)
            .map(|version| attempts.succeeded(&key(), &over(version), Some(difference()), None, at(0)))
            .collect();
        assert_eq!(repaired, [false, true, true, true, true, true]);
        assert_eq!(attempts.held_until(&key(), &over(6), at(0)), Some(at(1)));
        attempts.failed(&key(), &over(7), "refused".to_owned(), at(0));
        assert_eq!(attempts.failure(&key(), &over(8)), Some("refused"));
    }

    #[test]
    fn changes_of_what_is_wanted_are_no_quarrel() {
        let mut attempts = Attempts::default();
        for replicas in 0..20 {
            assert!(!attempts.succeeded(&key(), &Value::from(replicas), Some(difference()), None, at(0)));
        }
        assert_eq!(attempts.quarrels(at(0)).count(), 0);
    }

    #[test]
    fn a_value_that_the_server_writes_its_own_way_is_left_alone() {
        let mut attempts = Attempts::default();
        attempts.succeeded(&key(), &Value::Null, Some(difference()), Some(difference()), at(0));
        assert!(attempts.is_settled(&key(), &difference()));
        let changed = Difference { found: Some(7.into()), ..difference() };
        assert!(!attempts.is_settled(&key(), &changed), "somebody changed it again");
        attempts.succeeded(&key(), &Value::Null, None, None, at(1));
        assert!(!attempts.is_settled(&key(), &difference()));
    }
}
