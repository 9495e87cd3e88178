//! Watches of the API server as streams of [`Change`]s that hold only what is needed of an object.

use futures::{Stream, StreamExt, future};
use kube::runtime::{
    WatchStreamExt,
    utils::Backoff,
    watcher::{self, Event},
};
use tokio::time::{Duration, Instant};

/// The first wait between attempts to watch; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait: a server that is back does not go unseen for longer.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Waits between attempts, which begin anew when none has failed for a while: every attempt begins with a success of
/// sorts, so a success says nothing.
struct Pause {
    next: Duration,
    last: Instant,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, last: Instant::now() }
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let calm = self.last.elapsed() > LAST_PAUSE * 2;
        let pause = if calm { FIRST_PAUSE } else { self.next };
        *self = Self { next: (pause * 2).min(LAST_PAUSE), last: Instant::now() };
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {}
}

/// A change of a set of objects.
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// These are all there are.
    All(Vec<T>),
    /// This one is new or has changed.
    Set(T),
    /// This one is gone.
    Gone(T),
}

/// Joins the parts of a first list, or of one that is repeated after a gap, into one change. Faults are logged and
/// tried again: what was known stays known.
pub(crate) fn changes<K, T>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    reduce: impl Fn(K) -> T,
) -> impl Stream<Item = Change<T>> {
    let mut list = Vec::new();
    events.backoff(Pause::default()).filter_map(move |event| {
        let change = match event {
            Ok(Event::Init) => {
                list = Vec::new();
                None
            }
            Ok(Event::InitApply(object)) => {
                list.push(reduce(object));
                None
            }
            Ok(Event::InitDone) => Some(Change::All(std::mem::take(&mut list))),
            Ok(Event::Apply(object)) => Some(Change::Set(reduce(object))),
            Ok(Event::Delete(object)) => Some(Change::Gone(reduce(object))),
            Err(error) => {
                tracing::warn!(kind, %error, "watch interrupted");
                None
            }
        };
        future::ready(change)
    })
}
