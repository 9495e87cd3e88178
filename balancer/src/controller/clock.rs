//! The clock by which the controller decides.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Time since 1970 that never goes back: the wall clock is read once, so that an address that rests does so for its
/// time whatever is done to that clock.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    epoch: Duration,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        // A clock that stands before 1970 is as good as one that stands at 1970.
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { epoch, started: Instant::now() }
    }

    pub(super) fn now(&self) -> Duration {
        self.epoch + self.started.elapsed()
    }

    /// How long ago it was started.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn at(&self, time: Duration) -> Instant {
        self.started + time.saturating_sub(self.epoch)
    }
}
