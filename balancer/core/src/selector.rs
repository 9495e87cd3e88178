//! Label selectors, compiled once and matched often.
//!
//! Follows `metav1.LabelSelector`: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>. All
//! requirements of one selector must hold; a selector without requirements matches everything.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Labels of an object. They are kept for every Service that there is: in a list they take a fifth of the room that they
/// take in a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(
    /// In order of keys, each once.
    Box<[(Box<str>, Box<str>)]>,
);

impl Labels {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of the label `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(found).map(|(_, value)| &**value)
    }

    /// Whether there is a label `key`.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl From<&BTreeMap<String, String>> for Labels {
    fn from(labels: &BTreeMap<String, String>) -> Self {
        labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let each_once: BTreeMap<Box<str>, Box<str>> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self(each_once.into_iter().collect())
    }
}

impl From<Option<&BTreeMap<String, String>>> for Labels {
    fn from(labels: Option<&BTreeMap<String, String>>) -> Self {
        labels.map(Self::from).unwrap_or_default()
    }
}

/// Longest name part of a label key, and longest label value, in bytes.
const NAME_LIMIT: usize = 63;
/// Longest prefix of a label key, in bytes (RFC 1123 subdomain).
const PREFIX_LIMIT: usize = 253;

/// A compiled label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

/// What is wrong with one part of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorProblem {
    /// Path of the part below the selector, such as `matchExpressions[0].operator`.
    pub field: String,
    /// For people.
    pub message: String,
}

impl Selector {
    /// Compiles a selector.
    ///
    /// # Errors
    /// Every part that Kubernetes would refuse: unknown operators, values where none may be or none where some must
    /// be, and keys and values that no label can have.
    pub fn parse(selector: &LabelSelector) -> Result<Self, Vec<SelectorProblem>> {
        let mut problems = Vec::new();
        let mut requirements = BTreeSet::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            check_key(key, || "matchLabels".into(), &mut problems);
            check_value(value, || format!("matchLabels[{key}]"), &mut problems);
            let test = Test::In(BTreeSet::from([value.clone()]));
            requirements.insert(Requirement { key: key.clone(), test });
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            requirements.extend(parse_expression(
                expression,
                &format!("matchExpressions[{index}]"),
                &mut problems,
            ));
        }
        if problems.is_empty() { Ok(Self { requirements }) } else { Err(problems) }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|Requirement { key, test }| {
            let value = labels.get(key);
            match test {
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }
}

fn parse_expression(
    expression: &LabelSelectorRequirement,
    path: &str,
    problems: &mut Vec<SelectorProblem>,
) -> Option<Requirement> {
    let LabelSelectorRequirement { key, operator, values } = expression;
    let values: BTreeSet<String> = values.iter().flatten().cloned().collect();
    check_key(key, || format!("{path}.key"), problems);
    for value in &values {
        check_value(value, || format!("{path}.values"), problems);
    }
    let test = match operator.as_str() {
        "In" => Test::In(values.clone()),
        "NotIn" => Test::NotIn(values.clone()),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::DoesNotExist,
        other => {
            problems.push(SelectorProblem {
                field: format!("{path}.operator"),
                message: format!("unknown operator {other:?}: use In, NotIn, Exists or DoesNotExist"),
            });
            return None;
        }
    };
    let message = match (&test, values.is_empty()) {
        (Test::In(_) | Test::NotIn(_), true) => "needs at least one value",
        (Test::Exists | Test::DoesNotExist, false) => "takes no values",
        _ => return Some(Requirement { key: key.clone(), test }),
    };
    problems
        .push(SelectorProblem { field: format!("{path}.values"), message: format!("{operator} {message}") });
    None
}

fn check_key(key: &str, field: impl Fn() -> String, problems: &mut Vec<SelectorProblem>) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !is_name(name) || !prefix.is_none_or(is_subdomain) {
        problems.push(SelectorProblem { field: field(), message: format!("{key:?} is not a label key") });
    }
}

fn check_value(value: &str, field: impl Fn() -> String, problems: &mut Vec<SelectorProblem>) {
    if !value.is_empty() && !is_name(value) {
        problems.push(SelectorProblem { field: field(), message: format!("{value:?} is not a label value") });
    }
}

fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= NAME_LIMIT
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= PREFIX_LIMIT
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

/// Alternatives, as the fields of our kinds list them: one of the selectors must match, and an empty list matches
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnyOf(pub BTreeSet<Selector>);

impl AnyOf {
    /// Whether no selector is listed, so that everything matches.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.is_empty() || self.0.iter().any(|selector| selector.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).into()).collect()),
            }]),
        }
    }

    fn match_labels(pairs: &[(&str, &str)]) -> LabelSelector {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        LabelSelector { match_labels: Some(pairs.collect()), match_expressions: None }
    }

    #[test]
    fn operators_mean_what_kubernetes_means() {
        let (none, red, blue) = (labels(&[]), labels(&[("colour", "red")]), labels(&[("colour", "blue")]));
        for (selector, want) in [
            (LabelSelector::default(), [true, true, true]),
            (match_labels(&[("colour", "red")]), [false, true, false]),
            (match_labels(&[("colour", "red"), ("size", "s")]), [false, false, false]),
            (expression("colour", "In", &["red", "green"]), [false, true, false]),
            (expression("colour", "NotIn", &["red"]), [true, false, true]),
            (expression("colour", "Exists", &[]), [false, true, true]),
            (expression("colour", "DoesNotExist", &[]), [true, false, false]),
        ] {
            let compiled = Selector::parse(&selector).unwrap();
            assert_eq!([&none, &red, &blue].map(|labels| compiled.matches(labels)), want, "{selector:?}");
        }
    }

    #[test]
    fn every_bad_part_is_named() {
        let long = "x".repeat(64);
        for (selector, want) in [
            (
                expression("colour", "in", &["red"]),
                vec![(
                    "matchExpressions[0].operator",
                    "unknown operator \"in\": use In, NotIn, Exists or DoesNotExist".to_owned(),
                )],
            ),
            (
                expression("colour", "In", &[]),
                vec![("matchExpressions[0].values", "In needs at least one value".to_owned())],
            ),
            (
                expression("a b", "Exists", &["x", "-y"]),
                vec![
                    ("matchExpressions[0].key", "\"a b\" is not a label key".to_owned()),
                    ("matchExpressions[0].values", "\"-y\" is not a label value".to_owned()),
                    ("matchExpressions[0].values", "Exists takes no values".to_owned()),
                ],
            ),
            (
                match_labels(&[("Example.com/a", "x"), ("example.com/a", ""), ("/a", "b"), ("ok", &long)]),
                vec![
                    ("matchLabels", "\"/a\" is not a label key".to_owned()),
                    ("matchLabels", "\"Example.com/a\" is not a label key".to_owned()),
                    ("matchLabels[ok]", format!("{long:?} is not a label value")),
                ],
            ),
        ] {
            let want: Vec<_> = want
                .into_iter()
                .map(|(field, message)| SelectorProblem { field: field.into(), message })
                .collect();
            assert_eq!(Selector::parse(&selector), Err(want), "{selector:?}");
        }
    }

    #[test]
    fn no_alternative_means_everything_and_one_is_enough() {
        let red = Selector::parse(&match_labels(&[("colour", "red")])).unwrap();
        let blue = Selector::parse(&match_labels(&[("colour", "blue")])).unwrap();
        let either = AnyOf(BTreeSet::from([red, blue]));
        assert_eq!(
            [labels(&[]), labels(&[("colour", "red")]), labels(&[("colour", "blue")])]
                .map(|labels| (AnyOf::default().matches(&labels), either.matches(&labels))),
            [(true, false), (true, true), (true, true)]
        );
    }
}
