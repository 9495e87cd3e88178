//! The syntax of names in Kubernetes, in the words of its own error messages:
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/> and labels/.

/// An alphanumeric first and last letter, and between them also what `inner` allows.
fn is_word(text: &str, inner: impl Fn(u8) -> bool, outer: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    ends.is_some_and(|(&first, &last)| outer(first) && outer(last))
        && bytes.iter().all(|&letter| outer(letter) || inner(letter))
}

fn is_lower(letter: u8) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit()
}

/// A DNS subdomain (RFC 1123): the name of most objects.
///
/// # Errors
/// What is wrong with `text`, without naming it.
pub(super) fn subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err("is longer than 253 characters".to_owned());
    }
    if text.split('.').all(|label| is_word(label, |letter| letter == b'-', is_lower)) {
        Ok(())
    } else {
        Err("must consist of lower case letters, digits, '-' and '.', and begin and end each part with a letter \
             or digit"
            .to_owned())
    }
}

/// The key of a label or annotation: `name` or `prefix/name`.
///
/// # Errors
/// What is wrong with `text`, without naming it.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if let Some(prefix) = prefix {
        subdomain(prefix).map_err(|problem| format!("the part before '/' {problem}"))?;
    }
    word(name)
}

/// The value of a label; it may be empty.
///
/// # Errors
/// What is wrong with `text`, without naming it.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { word(text) }
}

fn word(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("is longer than 63 characters".to_owned());
    }
    if is_word(text, |letter| matches!(letter, b'-' | b'_' | b'.'), |letter| letter.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err("must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_kubernetes_does() {
        let long = "a".repeat(64);
        let longer = "a".repeat(254);
        type Judge = fn(&str) -> Result<(), String>;
        let table: [(&str, Judge, &[&str], &[&str]); 3] = [
            (
                "subdomain",
                subdomain,
                &["a", "a-1.b", "1"],
                &["", "A", "a..b", "-a", "a-", "a_b", "é", &longer],
            ),
            (
                "qualified name",
                qualified_name,
                &["a", "A_b.c-1", "example.com/Name"],
                &["", "/a", "a/", "a/b/c", "Example.com/a", "-a", &long],
            ),
            ("label value", label_value, &["", "a", "A_b.c"], &["a b", ".a", "a\n", &long]),
        ];
        for (name, judge, good, bad) in table {
            for text in good {
                assert_eq!(judge(text), Ok(()), "{name} {text:?}");
            }
            for text in bad {
                assert!(judge(text).is_err(), "{name} {text:?}");
            }
        }
    }
}
