//! Quantities of resources, as `k8s.io/apimachinery/pkg/api/resource` defines them.
//!
//! The API server stores a quantity in its canonical form. What is applied must have that form already, or it would
//! look for ever as if somebody had changed it.

use std::fmt;

/// A quantity, exact to a billionth; what is finer is rounded away from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Suffixes n, u, m, none, k, M, G, T, P, E.
    Decimal,
    /// Suffixes Ki, Mi, Gi, Ti, Pi, Ei.
    Binary,
    /// `1e3`.
    Exponent,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From 10^-9 in steps of 10^3.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    /// Reads a quantity such as `250m`, `1.5Gi` or `1e3`. `None` when it is none, or too large for this type.
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let number =
            text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return None;
        }
        let (numerator, denominator, format) = scale(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let denominator =
            denominator.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
        let scaled = digits.checked_mul(numerator)?.checked_mul(NANO)?;
        let nanos = scaled.checked_add(denominator - 1)? / denominator;
        Some(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Below zero.
    #[must_use]
    pub(super) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// More than `other`, whatever the units.
    #[must_use]
    pub(super) fn exceeds(self, other: Self) -> bool {
        self.nanos > other.nanos
    }
}

/// What one unit of `suffix` is, as a fraction.
fn scale(suffix: &str) -> Option<(i128, i128, Format)> {
    if let Some(power) = BINARY.iter().position(|&known| known == suffix)
        && power > 0
    {
        return Some((1_i128 << (10 * power), 1, Format::Binary));
    }
    if let Some(step) = DECIMAL.iter().position(|&known| known == suffix) {
        let unit = 1000_i128.checked_pow(u32::try_from(step).ok()?)?;
        return Some((unit, NANO, Format::Decimal));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power, Format::Exponent) } else { (power, 1, Format::Exponent) })
}

/// The canonical form: no fraction, and the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == Format::Binary && self.nanos % NANO == 0 && whole.abs() >= 1024 {
            let mut left = whole;
            let mut power = 0;
            while left % 1024 == 0 && power + 1 < BINARY.len() {
                left /= 1024;
                power += 1;
            }
            return write!(f, "{left}{}", BINARY.get(power).unwrap_or(&""));
        }
        let mut left = self.nanos;
        let mut step = 0;
        while left % 1000 == 0 && step + 1 < DECIMAL.len() {
            left /= 1000;
            step += 1;
        }
        match self.format {
            Format::Exponent if step != 3 => write!(f, "{left}e{}", step as i32 * 3 - 9),
            _ => write!(f, "{left}{}", DECIMAL.get(step).unwrap_or(&"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_is_that_of_the_api_server() {
        for (text, want) in [
            ("0", "0"),
            ("0m", "0"),
            ("1", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Ki", "512"),
            ("0.1Gi", "107374182400m"),
            ("100M", "100M"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("5e-1", "500e-3"),
            ("0.0000000001", "1n"),
            ("-1", "-1"),
            ("+2", "2"),
        ] {
            assert_eq!(
                Quantity::parse(text).map(|quantity| quantity.to_string()).as_deref(),
                Some(want),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in
            ["", ".", "-", "1.2.3", "abc", "1Kb", "1 ", "1e", "1e99", "9".repeat(40).as_str(), "--1", "1ki"]
        {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn quantities_of_different_units_compare() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert!(parse("1Gi").exceeds(parse("1G")));
        assert!(!parse("1000m").exceeds(parse("1")));
        assert!(parse("-1").is_negative());
    }
}
