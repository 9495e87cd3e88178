//! What the condition `Valid` of an object of the configuration says.

use metallb_api::conditions::{Report, VALID};

use crate::config::{Cause, Problem};

/// Reason of an object of which everything is used.
pub const USED: &str = "Used";
/// Reason of an object with a mistake in it.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// Reason of an object that names another which does not exist.
pub const UNRESOLVED: &str = "UnresolvedReference";

/// What an object with these problems says.
#[must_use]
pub fn report<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Report {
    let problems: Vec<_> = problems.into_iter().collect();
    let reason = if problems.is_empty() {
        USED
    } else if problems.iter().all(|problem| problem.cause == Cause::Unresolved) {
        UNRESOLVED
    } else {
        INVALID_SPEC
    };
    let messages: Vec<_> =
        problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
    Report { kind: VALID, status: problems.is_empty(), reason, message: messages.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let problem = |field: &str, cause| Problem {
            kind: "BGPPeer".to_owned(),
            name: "p".to_owned(),
            field: field.to_owned(),
            message: "bad".to_owned(),
            cause,
        };
        let invalid = problem("spec.myASN", Cause::Invalid);
        let unresolved = problem("spec.bfdProfile", Cause::Unresolved);
        let said = |status, reason, message: &str| Report {
            kind: "Valid",
            status,
            reason,
            message: message.to_owned(),
        };
        assert_eq!(report([]), said(true, USED, ""));
        assert_eq!(report([&unresolved]), said(false, UNRESOLVED, "spec.bfdProfile: bad"));
        let both = "spec.myASN: bad; spec.bfdProfile: bad";
        assert_eq!(report([&invalid, &unresolved]), said(false, INVALID_SPEC, both));
    }
}
