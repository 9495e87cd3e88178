//! Interfaces whose sockets broke, and when others are told of that.

use std::time::{Duration, Instant};

/// Pause before an interface whose sockets broke is opened again.
const REOPEN: Duration = Duration::from_secs(1);
/// How long an interface is broken before others are told that this node cannot announce on it: a link that is made anew
/// is back sooner.
const GIVE_UP: Duration = Duration::from_secs(2);
/// How long the sockets of one that was broken have to hold before it counts as mended.
const MENDED: Duration = Duration::from_secs(2);

/// An interface whose sockets broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    since: Instant,
    /// When they are opened again, or were.
    pub(super) retry: Instant,
}

impl Broken {
    /// It broke at `now`, perhaps not for the first time.
    pub(super) fn again(former: Option<Self>, now: Instant) -> Self {
        Self { since: former.map_or(now, |former| former.since), retry: now + REOPEN }
    }

    /// Whether others are to be told.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        self.since + GIVE_UP <= now
    }

    /// Whether the sockets have held for long enough, when they are open.
    pub(super) fn is_mended(&self, now: Instant) -> bool {
        self.retry + MENDED <= now
    }

    /// When something about it changes next.
    pub(super) fn deadline(&self, now: Instant, is_open: bool) -> Instant {
        let next = if is_open { self.retry + MENDED } else { self.retry };
        let told = Some(self.since + GIVE_UP).filter(|told| *told > now);
        told.map_or(next, |told| told.min(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_cannot_be_opened_is_given_up_until_its_sockets_hold() {
        let start = Instant::now();
        let first = Broken::again(None, start);
        assert!(!first.is_given_up(start + REOPEN));
        assert_eq!(first.deadline(start, false), start + REOPEN, "it is opened again");
        let second = Broken::again(Some(first), start + REOPEN);
        assert!(second.is_given_up(start + GIVE_UP), "two attempts failed");
        // Opened, and broken again before that was long enough.
        let third = Broken::again(Some(second), start + GIVE_UP);
        assert_eq!(third.since, start);
        let opened = third.retry;
        assert_eq!(third.deadline(opened, true), opened + MENDED);
        assert!(!third.is_mended(opened) && third.is_mended(opened + MENDED));
    }
}
