//! The echo function of a session (RFC 5880 §6.8.5, §6.8.9).

use std::time::{Duration, Instant};

use rand::RngExt;

use super::{Session, longest_part};
use crate::bfd::event::Action;
use crate::bfd::packet::State;
use crate::bfd::settings::Reach;

impl Session {
    /// Time between two echo packets of this end, jitter aside; `None` where none may be sent (RFC 5880 §6.8.9).
    pub(super) fn echo_interval(&self) -> Option<Duration> {
        let wanted = self.settings.timers.echo_transmit_interval.filter(|_| self.echo.has_path)?;
        let remote = self.remote?;
        let both_up = self.state == State::Up && remote.state == State::Up;
        let may =
            both_up && self.settings.reach == Reach::SingleHop && !remote.required_min_echo_rx.is_zero();
        may.then(|| wanted.max(remote.required_min_echo_rx))
    }

    /// Sends the echo packet that is due, or stops where none may be sent; the other end's control packets then come as
    /// fast as before.
    pub(super) fn follow_echo(&mut self, now: Instant, out: &mut Vec<Action>) {
        match self.echo_interval() {
            Some(interval) if self.echo.is_due(now) => {
                let most = self.settings.timers.detect_multiplier;
                let part = self.rng.random_range(0.75..=longest_part(most));
                if self.echo.is_in_doubt(most) {
                    out.push(Action::LookUp);
                }
                out.push(Action::SendEcho(self.echo.next(now, interval, part, most)));
            }
            Some(_) => {}
            None => {
                let was_active = self.echo.is_active();
                self.echo.stop();
                if was_active && self.state == State::Up {
                    self.adopt_timers();
                    self.send(now, false, out);
                }
            }
        }
    }

    pub(super) fn echo_returned(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Action>) {
        if self.echo_interval().is_none() {
            return;
        }
        let was_active = self.echo.is_active();
        self.echo.returned(now, bytes, self.settings.timers.detect_multiplier);
        if !was_active && self.echo.is_active() {
            // What is slower holds at once, and the other end is told (RFC 5880 §6.8.3).
            self.adopt_timers();
            self.send(now, false, out);
        }
    }
}
