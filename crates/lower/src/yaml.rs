//! YAML as Kubernetes reads it: into JSON, with the place of what is wrong.

use serde::Deserialize;
use serde_json::{Map, Number, Value};
use serde_yaml::value::Value as Yaml;

/// A piece of YAML is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct YamlError {
    /// Line, from 1, where it is known.
    pub line: Option<usize>,
    /// Column, from 1, where it is known.
    pub column: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl From<serde_yaml::Error> for YamlError {
    fn from(error: serde_yaml::Error) -> Self {
        let place = error.location();
        Self {
            line: place.as_ref().map(serde_yaml::Location::line),
            column: place.as_ref().map(serde_yaml::Location::column),
            reason: error.to_string(),
        }
    }
}

/// Reads one document; an empty one is null.
///
/// # Errors
/// Names line and column where it is not YAML, or has what JSON cannot have.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    match documents(text).next() {
        Some(document) => document,
        None => Ok(Value::Null),
    }
}

/// Reads all documents of a text, in order; empty ones are null. After an error there are no more.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Value, YamlError>> {
    let mut failed = false;
    serde_yaml::Deserializer::from_str(text).map_while(move |document| {
        if failed {
            return None;
        }
        let read = Yaml::deserialize(document)
            .map_err(YamlError::from)
            .and_then(|mut yaml| {
                yaml.apply_merge()?;
                to_json(yaml)
            });
        failed = read.is_err();
        Some(read)
    })
}

fn to_json(yaml: Yaml) -> Result<Value, YamlError> {
    let error = |reason: String| YamlError {
        line: None,
        column: None,
        reason,
    };
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            (.., value) => value
                .and_then(Number::from_f64)
                .map(Value::Number)
                .ok_or_else(|| error(format!("{number} is no number that JSON knows")))?,
        },
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = match key {
                    Yaml::String(text) => text,
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(value) => value.to_string(),
                    _ => return Err(error("a field's name must be text".to_owned())),
                };
                map.insert(key, to_json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => to_json(tagged.value)?,
    })
}

/// Where a field stands in the document of that number (from 0): line and column, from 1. The path is of the form
/// `spec.http[0].route`; when it leads nowhere, the place of the last part that does.
pub fn locate(text: &str, document: usize, path: &str) -> Option<(usize, usize)> {
    let mut steps = steps(path);
    loop {
        let document = serde_yaml::Deserializer::from_str(text).nth(document)?;
        let found = walk::Walk(&steps).deserialize_document(document);
        if let Some(place) = found.as_ref().and_then(serde_yaml::Error::location) {
            return Some((place.line(), place.column()));
        }
        steps.pop()?;
    }
}

enum Step {
    Field(String),
    Item(usize),
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        steps.extend(
            pieces
                .next()
                .filter(|name| !name.is_empty())
                .map(|name| Step::Field(name.to_owned())),
        );
        steps.extend(
            pieces
                .filter_map(|piece| piece.trim_end_matches(']').parse().ok())
                .map(Step::Item),
        );
    }
    steps
}

/// Finds a place by failing there: errors of the parser carry the place where they arose.
mod walk {
    use std::fmt;

    use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

    use super::Step;

    pub(super) struct Walk<'a>(pub(super) &'a [Step]);

    impl Walk<'_> {
        /// The error at the place, `None` when the path leads nowhere.
        pub(super) fn deserialize_document(self, document: serde_yaml::Deserializer<'_>) -> Option<serde_yaml::Error> {
            self.deserialize(document).err()
        }
    }

    impl<'de> DeserializeSeed<'de> for Walk<'_> {
        type Value = ();
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Walk<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let Some((step, rest)) = self.0.split_first() else {
                return Err(A::Error::custom("here"));
            };
            while let Some(key) = map.next_key::<serde_yaml::Value>()? {
                match (step, key.as_str()) {
                    (Step::Field(name), Some(key)) if name == key => map.next_value_seed(Walk(rest))?,
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok(())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
            let Some((step, rest)) = self.0.split_first() else {
                return Err(A::Error::custom("here"));
            };
            let mut index = 0;
            loop {
                let found = match step {
                    Step::Item(wanted) if *wanted == index => items.next_element_seed(Walk(rest))?,
                    _ => items.next_element::<IgnoredAny>()?.map(|_| ()),
                };
                if found.is_none() {
                    return Ok(());
                }
                index += 1;
            }
        }

        fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
            self.leaf()
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
            self.leaf()
        }
        fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
            self.leaf()
        }
        fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
            self.leaf()
        }
        fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
            self.leaf()
        }
        fn visit_unit<E: Error>(self) -> Result<(), E> {
            self.leaf()
        }
        fn visit_none<E: Error>(self) -> Result<(), E> {
            self.leaf()
        }
    }

    impl Walk<'_> {
        fn leaf<E: Error>(&self) -> Result<(), E> {
            if self.0.is_empty() {
                Err(E::custom("here"))
            } else {
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_by_path() {
        let text = "a: 1\n---\nspec:\n  http:\n  - timeout: 1s\n  - timeout: x\n    retries:\n      attempts: two\n";
        assert_eq!(locate(text, 1, "spec.http[1].timeout").map(|place| place.0), Some(6));
        assert_eq!(
            locate(text, 1, "spec.http[1].retries.attempts").map(|place| place.0),
            Some(8)
        );
        assert_eq!(locate(text, 1, "spec.http[1].nothing").map(|place| place.0), Some(6));
        assert_eq!(locate(text, 0, "a").map(|place| place.0), Some(1));
    }

    #[test]
    fn merges_tags_and_numbers_as_names_are_understood() {
        let value = parse("base: &b {x: 1}\nall:\n  <<: *b\n  80: !!str 8\n").unwrap();
        assert_eq!(value["all"], serde_json::json!({"80": "8", "x": 1}));
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn errors_name_their_line() {
        assert_eq!(parse("a: 1\nb: [\n").unwrap_err().line, Some(3));
        assert_eq!(documents("a: 1\n---\nb: }\n---\nc: 1\n").count(), 2);
        assert!(parse("a: 1\na: 2\n").is_err(), "a field twice");
    }
}
