//! Durations as Go and protobuf's JSON write them.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// Reads `5s`, `0.250s`, `1m30s`, `100ms`, `24h`.
///
/// # Errors
/// When a number or its unit cannot be read.
pub(crate) fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let bad = || format!("duration `{text}`: must look like 5s, 1m30s or 100ms");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        bail!(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').with_context(bad)?;
        let number: f64 = rest[..digits].parse().with_context(bad)?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => bail!(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).with_context(bad)?;
        rest = &rest[unit..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_and_protobuf_durations() {
        let millis = |text| parse_duration(text).unwrap().as_millis();
        assert_eq!(millis("5s"), 5_000);
        assert_eq!(millis("0.250s"), 250);
        assert_eq!(millis("1m30s"), 90_000);
        assert_eq!(millis("24h"), 86_400_000);
        assert_eq!(millis("100ms"), 100);
        for bad in ["", "5", "s", "5 s", "-1s", "1d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
