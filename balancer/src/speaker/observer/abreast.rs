//! Whether this speaker keeps up with the API server.

use std::time::{Duration, Instant};

use crate::speaker::informed::Contact;

/// Silence of the API server after which all is watched anew: connections that nothing went through for long are silent
/// for long after it would again. Shorter ones TCP makes good in as short a time.
const SILENCE: Duration = Duration::from_secs(5);

/// What was heard of the API server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abreast {
    contact: Contact,
    /// Since when nothing has come back from it.
    silent: Option<Instant>,
    /// Whether all is listed anew after that.
    lists: bool,
}

impl Abreast {
    /// Takes note of what becomes of questions at `now`; whether all is to be watched anew. Where they failed at once, the
    /// watches find out by themselves, and need no lists.
    pub(super) fn meet(&mut self, contact: Contact, now: Instant) -> bool {
        self.contact = contact;
        match contact {
            Contact::Answers => {
                let renews = self.silent.take().is_some_and(|since| since + SILENCE <= now);
                self.lists |= renews;
                return renews;
            }
            Contact::Fails => {}
            Contact::Silent => {
                self.silent.get_or_insert(now);
            }
        }
        false
    }

    /// Whether this speaker knows all that the API server has, where what is watched anew `is_current`.
    pub(super) fn is_informed(&mut self, is_current: bool) -> bool {
        self.lists &= !is_current;
        self.contact == Contact::Answers && !self.lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of it, by second; whether each time all is watched anew, and whether it is informed before and after
    /// all was listed.
    #[test]
    fn after_a_silence_all_is_listed_anew() {
        use Contact::{Answers, Fails, Silent};
        let start = Instant::now();
        let mut abreast = Abreast::default();
        for (second, contact, want) in [
            (0, Fails, (false, false, false)),
            (20, Answers, (false, true, true)),
            (30, Silent, (false, false, false)),
            (34, Answers, (false, true, true)),
            (40, Silent, (false, false, false)),
            (45, Answers, (true, false, true)),
        ] {
            let renews = abreast.meet(contact, start + Duration::from_secs(second));
            let informed = [false, true].map(|is_current| abreast.is_informed(is_current));
            assert_eq!((renews, informed[0], informed[1]), want, "second {second}");
        }
        // Lists that are not through yet are still to come, whatever happens meanwhile.
        for second in [50, 60] {
            abreast.meet(Silent, start + Duration::from_secs(second));
            abreast.meet(Answers, start + Duration::from_secs(second + 5));
        }
        abreast.meet(Fails, start + Duration::from_secs(66));
        abreast.meet(Answers, start + Duration::from_secs(67));
        assert!(!abreast.is_informed(false));
        assert!(abreast.is_informed(true));
    }
}
