//! Whether the API server answers: what is not answered is not tried at full strength again.

use std::time::Duration;

/// After a write that was not answered nothing is written for so long; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause: an API server that is back does not wait for longer.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Whether the API server answers.
#[derive(Default)]
pub(super) struct Answers {
    /// How long the pause after the last write that was not answered is; zero when the last one was.
    pause: Duration,
    /// When it ends.
    until: Duration,
}

impl Answers {
    /// A write has come back at `now`.
    pub(super) fn note(&mut self, answered: bool, now: Duration) {
        if answered {
            *self = Self::default();
            return;
        }
        if self.pause.is_zero() {
            self.pause = FIRST_PAUSE;
        } else if now >= self.until {
            // Those that were sent together fail together: they count once.
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
        self.until = now + self.pause;
    }

    /// How many writes may be under way at `now`, `usual` or less: one alone finds out whether the API server is back.
    pub(super) fn writes(&self, now: Duration, usual: usize) -> usize {
        match self.pause.is_zero() {
            true => usual,
            false if now < self.until => 0,
            false => 1,
        }
    }

    /// When the pause ends that there is at `now`.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        Some(self.until).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_silence_one_write_alone_finds_out_whether_there_are_answers() {
        let at = Duration::from_millis;
        let mut answers = Answers::default();
        assert_eq!((answers.writes(at(0), 32), answers.deadline(at(0))), (32, None));
        // Those that were sent together fail together: that is one failure.
        answers.note(false, at(1000));
        answers.note(false, at(1001));
        assert_eq!((answers.writes(at(1050), 32), answers.deadline(at(1050))), (0, Some(at(1101))));
        assert_eq!((answers.writes(at(1101), 32), answers.deadline(at(1101))), (1, None));
        let mut now = at(1101);
        for pause in [200, 400, 800, 1600, 3200, 5000, 5000] {
            answers.note(false, now);
            assert_eq!(answers.deadline(now), Some(now + at(pause)));
            now += at(pause);
        }
        answers.note(true, now);
        assert_eq!((answers.writes(now, 32), answers.deadline(now)), (32, None));
    }
}
