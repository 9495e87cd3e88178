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
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, field, message } = self;
        write!(f, "{kind} {name:?}: {field}: {message}")
    }
}

/// The problems of one object while it is being parsed.
pub(super) struct Findings {
    kind: String,
    name: String,
    problems: Vec<Problem>,
}

impl Findings {
    pub(super) fn of<K: metallb_api::Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            kind: K::kind(&()).into_owned(),
            name: object.meta().name.clone().unwrap_or_default(),
            problems: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) fn add(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.problems.push(Problem {
            kind: self.kind.clone(),
            name: self.name.clone(),
            field: field.into(),
            message: message.to_string(),
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
