//! Small helpers of the generated (de)serialisation.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, de};

/// Whether a value is what protobuf's JSON form leaves out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a 64-bit integer, which protobuf's JSON form writes in quotes and everyone else does not.
pub(crate) fn integer<'de, D: Deserializer<'de>, T: TryFrom<i128>>(deserializer: D) -> Result<T, D::Error> {
    struct Integer;

    impl Visitor<'_> for Integer {
        type Value = i128;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an integer, or one in quotes")
        }

        fn visit_i64<E: de::Error>(self, v: i64) -> Result<i128, E> {
            Ok(v.into())
        }

        fn visit_u64<E: de::Error>(self, v: u64) -> Result<i128, E> {
            Ok(v.into())
        }

        fn visit_str<E: de::Error>(self, v: &str) -> Result<i128, E> {
            v.parse().map_err(|_| E::invalid_value(Unexpected::Str(v), &self))
        }
    }

    let wide = deserializer.deserialize_any(Integer)?;
    T::try_from(wide).map_err(|_| D::Error::custom(format_args!("{wide} is out of range")))
}
