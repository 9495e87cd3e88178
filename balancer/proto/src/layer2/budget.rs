//! Pace of the frames that are sent unasked: switches shut ports that speak too much ARP.

use std::time::{Duration, Instant};

/// For how long what was not spent may be saved.
const SAVED: Duration = Duration::from_secs(1);

/// So many frames a second.
#[derive(Debug, Clone)]
pub struct Budget {
    gap: Duration,
    saved: Duration,
    /// When everything is earned that was spent.
    earned: Option<Instant>,
}

impl Budget {
    /// `rate` frames a second, at least one, and as many at once where none were sent for long.
    pub fn new(rate: u32) -> Self {
        Self { saved: SAVED, ..Self::spaced(rate) }
    }

    /// `rate` frames a second, at least one, each when those before it are earned.
    pub fn spaced(rate: u32) -> Self {
        Self { gap: Duration::from_secs(1) / rate.max(1), saved: Duration::ZERO, earned: None }
    }

    /// Half of `rate` frames a second, and half of a second's at once.
    pub fn half(rate: u32) -> Self {
        Self { gap: Duration::from_secs(2) / rate.max(1), saved: SAVED, earned: None }
    }

    /// Takes `frames`, unless there are not as many.
    pub fn take(&mut self, now: Instant, frames: u32) -> bool {
        if self.next(now, frames) > now {
            return false;
        }
        self.spend(now, frames);
        true
    }

    /// Counts frames that wait for nothing.
    pub fn spend(&mut self, now: Instant, frames: u32) {
        self.earned = Some(self.earned.map_or(now, |earned| earned.max(now)) + self.gap * frames);
    }

    /// When `frames` can be taken; more than a second's frames wait as long as a second's.
    pub fn next(&self, now: Instant, frames: u32) -> Instant {
        let saved = self.saved.saturating_sub(self.gap * frames);
        self.earned.map_or(now, |earned| earned.checked_sub(saved).unwrap_or(now).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_second_is_saved_and_then_the_pace_is_kept() {
        let (origin, mut budget) = (origin(), Budget::new(10));
        for _ in 0..5 {
            assert!(budget.take(origin, 2));
        }
        assert!(!budget.take(origin, 1));
        assert_eq!(budget.next(origin, 1) - origin, Duration::from_millis(100));
        assert_eq!(budget.next(origin, 2) - origin, Duration::from_millis(200));
        let mut now = origin;
        for _ in 0..100 {
            now = budget.next(now, 1);
            assert!(budget.take(now, 1));
        }
        assert_eq!((now - origin).as_millis(), 10_000);
        let later = now + Duration::from_secs(3600);
        assert!((0..10).all(|_| budget.take(later, 1)), "a second is saved");
        assert!(!budget.take(later, 1), "and no more");
    }

    #[test]
    fn what_waits_for_nothing_is_paid_later() {
        let (origin, mut budget) = (origin(), Budget::new(10));
        budget.spend(origin, 30);
        assert_eq!(budget.next(origin, 1) - origin, Duration::from_millis(2100));
    }

    #[test]
    fn more_than_a_second_earns_can_be_taken_when_all_is_earned() {
        let (origin, mut budget) = (origin(), Budget::new(1));
        assert!(budget.take(origin, 4));
        assert_eq!(budget.next(origin, 4) - origin, Duration::from_secs(4));
    }
}
