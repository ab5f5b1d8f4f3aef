//! Durations as Istio's YAML writes them: `10s`, `0.5s`, `1m30s`, `250ms` (Go `time.ParseDuration`).

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};

/// A length of time, never negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(pub StdDuration);

/// Why a duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a number and a unit, as in 10s, 500ms or 1m30s")]
pub struct DurationError(String);

impl Duration {
    /// From whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(StdDuration::from_secs(seconds))
    }

    /// From milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(StdDuration::from_millis(milliseconds))
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refused = || DurationError(s.chars().take(64).collect());
        let mut rest = s.strip_prefix('+').unwrap_or(s);
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() || s.len() > 64 {
            return Err(refused());
        }
        let mut nanoseconds: u128 = 0;
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(refused)?;
            let (number, tail) = rest.split_at(end);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let scale: u128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(refused()),
            };
            nanoseconds = scaled(number, scale)
                .and_then(|n| nanoseconds.checked_add(n))
                .ok_or_else(refused)?;
            rest = tail;
        }
        // Go counts in signed 64-bit nanoseconds.
        match u64::try_from(nanoseconds) {
            Ok(n) if n <= i64::MAX as u64 => Ok(Self(StdDuration::from_nanos(n))),
            _ => Err(refused()),
        }
    }
}

/// `number` (digits, perhaps with a fraction) times `scale`; what is below one unit is cut off.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(place * u128::from(digit - b'0'))?;
    }
    Some(total)
}

impl TryFrom<String> for Duration {
    type Error = DurationError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Duration> for String {
    fn from(d: Duration) -> Self {
        d.to_string()
    }
}

impl From<StdDuration> for Duration {
    fn from(d: StdDuration) -> Self {
        Self(d)
    }
}

impl From<Duration> for StdDuration {
    fn from(d: Duration) -> Self {
        d.0
    }
}

impl Deref for Duration {
    type Target = StdDuration;

    fn deref(&self) -> &StdDuration {
        &self.0
    }
}

impl fmt::Display for Duration {
    /// Seconds with a fraction if there is one, as proto JSON writes them: `10s`, `0.25s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = (self.0.as_secs(), self.0.subsec_nanos());
        if nanoseconds == 0 {
            return write!(f, "{seconds}s");
        }
        let fraction = format!("{nanoseconds:09}");
        write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("0.5s", 500),
            (".5s", 500),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<Duration>().unwrap(),
                Duration::from_millis(milliseconds),
                "{text}"
            );
        }
        assert_eq!(Duration::from_millis(90_250).to_string(), "90.25s");
    }

    #[test]
    fn refuses_the_rest_without_overflow() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "10 s",
            "1d",
            "1..5s",
            ".s",
            "99999999999999999h",
            "1e9s",
            "ß",
            "5sß",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
