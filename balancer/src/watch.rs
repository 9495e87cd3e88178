//! Watches of the API server as streams of [`Change`]s that hold only what is needed of an object.

use futures::{Stream, StreamExt, future, stream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Error, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
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

/// The objects cannot be read now: their kind is not served, or reading them is not allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreadable;

/// A watch that begins anew with a list where it cannot be taken up again: the kind was not served for a while, or the
/// version is too old.
pub(crate) fn watch_anew<K>(api: Api<K>) -> impl Stream<Item = watcher::Result<Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_selected(api, watcher::Config::default())
}

/// As [`watch_anew`], of the objects that `selected` selects.
pub(crate) fn watch_selected<K>(
    api: Api<K>,
    selected: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    stream::unfold(None, move |running| {
        let (api, selected) = (api.clone(), selected.clone());
        async move {
            let mut running = running.unwrap_or_else(|| watcher(api, selected).boxed());
            let event = running.next().await?;
            let over = matches!(
                &event,
                Err(Error::WatchStartFailed(kube::Error::Api(status))) if matches!(status.code, 404 | 410)
            );
            Some((event, (!over).then_some(running)))
        }
    })
}

/// Joins the parts of a first list, or of one that is repeated after a gap, into one change. Faults are logged and
/// tried again: what was known stays known.
pub(crate) fn changes<K, T>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    reduce: impl Fn(K) -> T,
) -> impl Stream<Item = Change<T>> {
    news(kind, events, reduce).filter_map(|news| future::ready(news.ok()))
}

/// As [`changes`], and tells when the objects cannot be read, until a complete list says that they can.
pub(crate) fn news<K, T>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    reduce: impl Fn(K) -> T,
) -> impl Stream<Item = Result<Change<T>, Unreadable>> {
    let mut list = Vec::new();
    events.backoff(Pause::default()).filter_map(move |event| {
        let news = match event {
            Ok(Event::Init) => {
                list = Vec::new();
                None
            }
            Ok(Event::InitApply(object)) => {
                list.push(reduce(object));
                None
            }
            Ok(Event::InitDone) => Some(Ok(Change::All(std::mem::take(&mut list)))),
            Ok(Event::Apply(object)) => Some(Ok(Change::Set(reduce(object)))),
            Ok(Event::Delete(object)) => Some(Ok(Change::Gone(reduce(object)))),
            Err(error) => {
                tracing::warn!(kind, %error, "watch interrupted");
                // Those after which nothing but a complete list brings news.
                let listing = match &error {
                    Error::InitialListFailed(_) => true,
                    Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 404 | 410),
                    _ => false,
                };
                listing.then_some(Err(Unreadable))
            }
        };
        future::ready(news)
    })
}
