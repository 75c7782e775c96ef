//! Durations as the Gateway API writes them (GEP-2257): up to four of hours, minutes, seconds and milliseconds.

use serde::Serializer;

use crate::Duration;

/// For fields that are skipped when absent.
pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(duration) = duration else {
        return serializer.serialize_none();
    };
    let mut millis = duration.as_nanos().unsigned_abs() / 1_000_000;
    let mut text = String::new();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if millis >= length {
            text.push_str(&format!("{}{unit}", millis / length));
            millis %= length;
        }
    }
    serializer.serialize_str(if text.is_empty() { "0s" } else { &text })
}
