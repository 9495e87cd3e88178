//! Durations as Go writes them: `90s`, `1m30s`, `1.5h` (<https://pkg.go.dev/time#ParseDuration>).

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Not of Go's form.
    #[error("{0:?} is not a duration: write for example 90s or 1m30s")]
    Form(String),
    /// Below zero.
    #[error("{0:?} is negative")]
    Negative(String),
    /// Beyond what Go can hold.
    #[error("{0:?} is too long")]
    TooLong(String),
}

/// Reads a duration, exact to the nanosecond.
///
/// # Errors
/// When the text is not of Go's form, below zero, or beyond Go's 2^63-1 nanoseconds.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let form = || DurationError::Form(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return Err(form());
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut nanoseconds = 0u128;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c)).ok_or_else(form)?);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let scale = scale(unit).ok_or_else(form)?;
        let part = multiply(number, scale).ok_or_else(form)?.ok_or_else(too_long)?;
        nanoseconds = nanoseconds.checked_add(part).ok_or_else(too_long)?;
        rest = tail;
    }
    let nanoseconds = i64::try_from(nanoseconds).map_err(|_| too_long())?.unsigned_abs();
    if negative && nanoseconds > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Nanoseconds of a unit.
fn scale(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter look alike, and Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// A decimal number times `scale`, rounded down: `None` when it is no number, `Some(None)` when it is too great.
fn multiply(number: &str, scale: u128) -> Option<Option<u128>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits = |text: &str| {
        text.bytes().try_fold(0u128, |sum, digit| sum.checked_mul(10)?.checked_add(u128::from(digit - b'0')))
    };
    // Digits beyond these are less than a nanosecond in every unit.
    let fraction: String = fraction.chars().take(18).collect();
    let power = fraction.bytes().fold(1u128, |power, _| power * 10);
    let part = digits(&fraction).map(|digits| digits * scale / power);
    Some(digits(whole).and_then(|whole| whole.checked_mul(scale)?.checked_add(part?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("90s", 90_000_000_000),
            ("+1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("3us2\u{b5}s1\u{3bc}s", 6_000),
            ("1ms1ns", 1_000_001),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9223372036854775807ns", i64::MAX.unsigned_abs()),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for text in ["", "-", "+", "s", "90", "90 s", "1d", ".s", "1.2.3s", "1s2", "-+1s", "٣s"] {
            assert_eq!(parse(text), Err(DurationError::Form(text.into())));
        }
        for text in ["9223372036854775808ns", "99999999999999999999999999999999999999999h", "2562048h"] {
            assert_eq!(parse(text), Err(DurationError::TooLong(text.into())));
        }
        assert_eq!(parse("-1s"), Err(DurationError::Negative("-1s".into())));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.a-z\u{b5}]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_units_add_up(hours in 0u64..1000, minutes in 0u64..1000, seconds in 0u64..100_000) {
            prop_assert_eq!(
                parse(&format!("{hours}h{minutes}m{seconds}s")),
                Ok(Duration::from_secs(hours * 3600 + minutes * 60 + seconds))
            );
        }
    }
}
