//! What is wrong with an object, told so that its author can find the place.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::selector::{AnyOf, Selector};

/// One fault in one field of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Kind of the object.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Path of the field, such as `spec.addresses[0]`.
    pub field: String,
    /// For people.
    pub message: String,
    /// What kind of mistake it is.
    pub cause: Cause,
}

/// What kind of mistake a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The object is wrong by itself, or clashes with another.
    Invalid,
    /// The object names another that does not exist, or not yet: admission lets it pass, since objects that belong
    /// together are created one after the other.
    Unresolved,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, field, message, .. } = self;
        write!(f, "{kind} {name:?}: {field}: {message}")
    }
}

/// The problems of one object while it is being parsed.
pub(super) struct Findings {
    kind: String,
    name: String,
    problems: Vec<Problem>,
    /// Whether the object can be served in spite of its problems.
    is_usable: bool,
}

impl Findings {
    pub(super) fn of<K: metallb_api::Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            kind: K::kind(&()).into_owned(),
            name: object.meta().name.clone().unwrap_or_default(),
            problems: Vec::new(),
            is_usable: true,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_usable(&self) -> bool {
        self.is_usable
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Reports a mistake for which the object is left out.
    pub(super) fn add(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.is_usable = false;
        self.push(field, message, Cause::Invalid);
    }

    /// Reports that the object names another that does not exist, for which it is left out.
    pub(super) fn unresolved(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.is_usable = false;
        self.push(field, message, Cause::Unresolved);
    }

    /// Reports a mistake for which the object is served in part.
    pub(super) fn restrict(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.push(field, message, Cause::Invalid);
    }

    fn push(&mut self, field: impl Into<String>, message: impl fmt::Display, cause: Cause) {
        self.problems.push(Problem {
            kind: self.kind.clone(),
            name: self.name.clone(),
            field: field.into(),
            message: message.to_string(),
            cause,
        });
    }

    /// Compiles the selector at `field`; an empty one stands in for a bad one, whose object is left out anyhow.
    pub(super) fn selector(&mut self, field: &str, selector: &LabelSelector) -> Selector {
        Selector::parse(selector).unwrap_or_else(|problems| {
            for problem in problems {
                self.add(format!("{field}.{}", problem.field), problem.message);
            }
            Selector::default()
        })
    }

    /// Compiles the list of selectors at `field`, in which none may stand twice.
    pub(super) fn any_of(&mut self, field: &str, selectors: &[LabelSelector]) -> AnyOf {
        let mut compiled = BTreeSet::new();
        for (index, selector) in selectors.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let before = self.problems.len();
            let selector = self.selector(&field, selector);
            if self.problems.len() == before && !compiled.insert(selector) {
                self.add(field, "the same selector is listed before");
            }
        }
        AnyOf(compiled)
    }

    /// The names listed at `field`, in which none may stand twice.
    pub(super) fn names(&mut self, field: &str, names: &[String]) -> BTreeSet<String> {
        let mut set = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            if !set.insert(name.clone()) {
                self.add(format!("{field}[{index}]"), format_args!("{name:?} is listed before"));
            }
        }
        set
    }
}
