//! How a session ends: as its settings, its node or the path want it.

use std::time::Instant;

use super::{Phase, Session};
use crate::bgp::event::{Action, Bfd, Down, Side, Stop};
use crate::bgp::notification::{self, Notification};

impl Session {
    pub(super) fn bfd(&mut self, now: Instant, bfd: Bfd, out: &mut Vec<Action>) {
        self.bfd_is_up = bfd == Bfd::Up;
        match bfd {
            Bfd::Up => self.excused = None,
            Bfd::Down => self.bfd_down(now, out),
            Bfd::Nothing => {
                self.excused = None;
                self.returned = None;
            }
        }
    }

    fn bfd_down(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.bfd_ended = true;
        // RFC 5882 §4.3.2: where the BFD of a router goes down with its control plane, that is no reason to end the
        // graceful restart that is under way: our word would cost the routes that the router kept. BFD that does not come
        // up again is one.
        self.excused = self.returned.take().filter(|until| now < *until);
        if self.excused.is_none() {
            self.path_broke(now, out);
        }
    }

    /// Ends the session, whose path BFD found broken.
    pub(super) fn path_broke(&mut self, now: Instant, out: &mut Vec<Action>) {
        for side in Side::ALL {
            let Some(connection) = self.connections.get(&side) else { continue };
            if connection.established.is_some() {
                // The path is broken, so nothing is to be kept (RFC 9384 §3, RFC 8538 §3.1).
                let notification = connection.hard(Notification::cease(notification::BFD_DOWN));
                self.end(now, side, Down::Sent(notification), out);
            }
        }
    }

    pub(super) fn stop(&mut self, now: Instant, stop: Stop, out: &mut Vec<Action>) {
        let standing = self.side();
        let keeps_routes = self.agreed().is_some_and(|agreed| agreed.graceful_restart.is_some());
        let is_draining = matches!(self.phase, Phase::Draining { .. });
        match (stop, standing) {
            (Stop::Restart { .. }, Some(_)) if keeps_routes && !is_draining => self.abandon(now, out),
            // The router may hold routes from before, and a NOTIFICATION would cost them.
            (Stop::Restart { .. }, None) if self.settings.graceful_restart.is_some() => {
                self.abandon(now, out);
            }
            (Stop::Leave { text } | Stop::Restart { text }, Some(side))
                if !is_draining && !self.settings.drain.is_zero() && self.advertised() > 0 =>
            {
                if let Some(connection) = self.connections.get_mut(&side) {
                    connection.rewrite();
                }
                self.phase = Phase::Draining { until: now + self.settings.drain, text };
            }
            (Stop::Leave { text } | Stop::Restart { text }, _) => self.leave(now, &text, out),
            (Stop::Reset, _) => self.shut(now, &Notification::cease(notification::CONFIGURATION_CHANGE), out),
        }
    }

    /// Ends every connection without a word, so that the router keeps the routes.
    fn abandon(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.phase = Phase::Stopped;
        self.hang_up(out);
        for side in Side::ALL {
            self.end(now, side, Down::Restart, out);
        }
    }

    /// Withdraws everything and ends every connection.
    pub(super) fn leave(&mut self, now: Instant, text: &str, out: &mut Vec<Action>) {
        for side in Side::ALL {
            self.with(now, side, out, |connection, context| {
                connection.withdraw_all(context);
            });
        }
        self.shut(now, &Notification::shutdown(text), out);
    }

    fn shut(&mut self, now: Instant, notification: &Notification, out: &mut Vec<Action>) {
        self.phase = Phase::Stopped;
        self.hang_up(out);
        let is_reset = notification.subcode == notification::CONFIGURATION_CHANGE;
        for side in Side::ALL {
            let Some(connection) = self.connections.get(&side) else { continue };
            let notification =
                if is_reset { notification.clone() } else { connection.hard(notification.clone()) };
            self.end(now, side, Down::Sent(notification), out);
        }
    }
}
