//! Durations and sizes as people write them.

use std::time::Duration;

/// The longest duration that is accepted, one year: adding it to a clock's reading cannot overflow.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const DURATION_HINT: &str = "must be a duration such as \"500ms\", \"1.5s\", \"2m\" or \"1h\"";
const SIZE_HINT: &str = "must be a size such as \"64KiB\", \"1MiB\", \"2GiB\" or a number of bytes";

/// Nanoseconds of each unit, longest suffix first where one ends with another.
const DURATION_UNITS: [(&str, u64); 4] =
    [("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
const SIZE_UNITS: [(&str, usize); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
/// Digits after the point that are accepted: a billionth of an hour is exact enough.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads `500ms`, `1.5s`, `2m`, `1h`.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = || DURATION_HINT.to_owned();
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let Some(split) = split else {
        let numeric = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        return Err(if numeric { "a unit is missing: ms, s, m or h".to_owned() } else { hint() });
    };
    let (number, unit) = text.split_at(split);
    let (_, unit_ns) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(hint)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = digits(whole).ok_or_else(hint)?;
    if fraction.len() > FRACTION_DIGITS_MAX {
        return Err(hint());
    }
    let part =
        u128::from(digits(fraction).ok_or_else(hint)?) * u128::from(*unit_ns) / 10_u128.pow(fraction.len() as u32);
    let total_ns = u128::from(whole) * u128::from(*unit_ns) + part;
    if total_ns > DURATION_MAX.as_nanos() {
        return Err(format!("must be at most {}", format_duration(DURATION_MAX)));
    }
    let total_ns = u64::try_from(total_ns).map_err(|_| hint())?;
    Ok(Duration::from_nanos(total_ns))
}

/// Writes a duration so that [`parse_duration`] reads it back: the longest unit that divides it, else milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let total_ns = duration.as_nanos();
    for (name, unit_ns) in DURATION_UNITS.iter().rev() {
        let unit_ns = u128::from(*unit_ns);
        if total_ns > 0 && total_ns.is_multiple_of(unit_ns) {
            return format!("{}{name}", total_ns / unit_ns);
        }
    }
    let (whole, fraction) = (total_ns / 1_000_000, total_ns % 1_000_000);
    if fraction == 0 {
        return format!("{whole}ms");
    }
    format!("{whole}.{}ms", format!("{fraction:06}").trim_end_matches('0'))
}

/// Reads `64KiB`, `1MiB`, `2GiB`, or plain bytes.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = digits(number).and_then(|n| usize::try_from(n).ok()).ok_or(SIZE_HINT)?;
    if unit.is_empty() {
        return Ok(number);
    }
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(SIZE_HINT)?;
    number.checked_mul(*factor).ok_or_else(|| "is more than this machine can count".to_owned())
}

/// Writes a size so that [`parse_size`] reads it back.
#[must_use]
pub fn format_size(bytes: usize) -> String {
    for (name, factor) in SIZE_UNITS.iter().rev() {
        if bytes > 0 && bytes.is_multiple_of(*factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// A size that TOML gave as a number.
pub(super) fn size_of(bytes: i64) -> Result<usize, String> {
    usize::try_from(bytes).map_err(|_| SIZE_HINT.to_owned())
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_that_are_accepted() {
        for (text, expected_us) in [
            ("500ms", 500_000),
            ("1500ms", 1_500_000),
            ("1.5s", 1_500_000),
            ("0.25s", 250_000),
            ("0.5ms", 500),
            ("2m", 120_000_000),
            ("1.5m", 90_000_000),
            ("1h", 3_600_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(expected_us)), "{text}");
        }
    }

    #[test]
    fn durations_that_are_refused() {
        for text in ["", "ms", "1.s", ".5s", "-1s", "+1s", "1 s", "1S", "1d", "1m30s", "1e3s", "1..5s", "1.0000000001s"]
        {
            assert_eq!(parse_duration(text), Err(DURATION_HINT.to_owned()), "{text:?}");
        }
        assert_eq!(parse_duration("500"), Err("a unit is missing: ms, s, m or h".to_owned()));
        assert_eq!(parse_duration("8761h"), Err("must be at most 8760h".to_owned()));
        assert_eq!(parse_duration("99999999999999999999s"), Err(DURATION_HINT.to_owned()));
        assert_eq!(parse_duration("18446744073709551615h"), Err("must be at most 8760h".to_owned()));
    }

    #[test]
    fn sizes() {
        for (text, expected) in [("0", 0), ("1024", 1024), ("1KiB", 1024), ("3MiB", 3 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "KiB", "1MB", "1 MiB", "-1", "1.5MiB", "1mib", "99999999999999999999"] {
            assert_eq!(parse_size(text), Err(SIZE_HINT.to_owned()), "{text:?}");
        }
        assert_eq!(parse_size("18446744073709551615GiB"), Err("is more than this machine can count".to_owned()));
    }

    proptest! {
        #[test]
        fn a_written_duration_is_read_back(ns in 0..=DURATION_MAX.as_nanos() as u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_is_read_back(bytes: usize) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", numeric in "[0-9.]{0,24}(ms|s|m|h|KiB|MiB|GiB)?") {
            for text in [text, numeric] {
                if let Ok(duration) = parse_duration(&text) {
                    prop_assert!(duration <= DURATION_MAX);
                }
                let _ = parse_size(&text);
            }
        }
    }
}
