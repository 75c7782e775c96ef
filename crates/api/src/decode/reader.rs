//! The deserializer behind [`decode`](super::decode()).

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::{Map, Value};

use super::DecodeError;

/// What one reading gathers.
pub(super) struct Context {
    /// Understand snake case and numbers in quotes.
    pub(super) lenient: bool,
    pub(super) unknown: Vec<String>,
}

/// Where the reader stands; a list through the frames of the recursion, written out only when something is wrong.
pub(super) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            // A name with dots, such as a label, would read as several.
            Path::Field(parent, name) if name.contains(['.', '/', '[']) => write!(f, "{parent}[{name:?}]"),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: String::new(),
            message: message.to_string(),
        }
    }
}

impl DecodeError {
    /// The innermost frame that sees the error knows best where it happened.
    fn at(mut self, path: &Path<'_>) -> Self {
        if self.path.is_empty() {
            self.path = path.to_string();
        }
        self
    }
}

/// Reads one JSON value.
pub(super) struct Reader<'a> {
    pub(super) value: &'a Value,
    pub(super) path: &'a Path<'a>,
    pub(super) context: &'a mut Context,
}

impl<'a> Reader<'a> {
    fn wrong<'de, V: Visitor<'de>>(&self, visitor: &V) -> DecodeError {
        let found = match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => Unexpected::Unsigned(value),
                (_, Some(value), _) => Unexpected::Signed(value),
                (_, _, Some(value)) => Unexpected::Float(value),
                _ => Unexpected::Other("number"),
            },
            Value::String(value) => Unexpected::Str(value),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        };
        <DecodeError as de::Error>::invalid_type(found, visitor).at(self.path)
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let path = self.path;
        let wide = match self.value {
            Value::Number(number) => number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from))
                // 1.0 and 1e3 are integers to JSON.
                .or_else(|| {
                    number
                        .as_f64()
                        .filter(|f| f.fract() == 0.0 && f.abs() < 9e15)
                        .map(|f| f as i128)
                }),
            Value::String(text) if self.context.lenient => text.parse().ok(),
            _ => None,
        };
        match wide.map(|wide| (u64::try_from(wide), i64::try_from(wide))) {
            Some((Ok(value), _)) => visitor.visit_u64(value),
            Some((_, Ok(value))) => visitor.visit_i64(value),
            _ => return Err(self.wrong(&visitor)),
        }
        .map_err(|e: DecodeError| e.at(path))
    }

    fn float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let path = self.path;
        let value = match self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) if self.context.lenient => text.parse().ok(),
            _ => None,
        };
        match value {
            Some(value) => visitor.visit_f64(value).map_err(|e: DecodeError| e.at(path)),
            None => Err(self.wrong(&visitor)),
        }
    }

    fn entries<'de, V: Visitor<'de>>(
        self,
        map: &'a Map<String, Value>,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Self { path, context, .. } = self;
        visitor
            .visit_map(Entries {
                iter: map.iter(),
                fields,
                current: None,
                path,
                context,
            })
            .map_err(|e| e.at(path))
    }
}

macro_rules! forward {
    ($($method:ident => $to:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.$to(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let path = self.path;
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => return Err(self.wrong(&visitor)),
            },
            Value::String(value) => visitor.visit_str(value),
            Value::Array(items) => {
                let Reader { context, .. } = self;
                visitor.visit_seq(Items {
                    iter: items.iter().enumerate(),
                    path,
                    context,
                })
            }
            Value::Object(map) => return self.entries(map, None, visitor),
        }
        .map_err(|e: DecodeError| e.at(path))
    }

    forward! {
        deserialize_i8 => integer, deserialize_i16 => integer, deserialize_i32 => integer, deserialize_i64 => integer,
        deserialize_u8 => integer, deserialize_u16 => integer, deserialize_u32 => integer, deserialize_u64 => integer,
        deserialize_f32 => float, deserialize_f64 => float,
        deserialize_bool => deserialize_any, deserialize_char => deserialize_any, deserialize_str => deserialize_any,
        deserialize_string => deserialize_any, deserialize_bytes => deserialize_any,
        deserialize_byte_buf => deserialize_any, deserialize_unit => deserialize_any, deserialize_seq => deserialize_any,
        deserialize_map => deserialize_any, deserialize_identifier => deserialize_any,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Object(map) => self.entries(map, Some(fields), visitor),
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let path = self.path;
        match self.value {
            Value::String(name) => visitor
                .visit_enum(name.as_str().into_deserializer())
                .map_err(|e: DecodeError| e.at(path)),
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }
}

struct Items<'a> {
    iter: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
    path: &'a Path<'a>,
    context: &'a mut Context,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, value)) = self.iter.next() else {
            return Ok(None);
        };
        let path = Path::Index(self.path, index);
        seed.deserialize(Reader {
            value,
            path: &path,
            context: self.context,
        })
        .map(Some)
        .map_err(|e| e.at(&path))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.iter.len())
    }
}

struct Entries<'a> {
    iter: serde_json::map::Iter<'a>,
    /// The fields of a struct; `None` for a map, whose keys are free and whose nulls are values.
    fields: Option<&'static [&'static str]>,
    current: Option<(&'a str, &'a Value)>,
    path: &'a Path<'a>,
    context: &'a mut Context,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        for (key, value) in self.iter.by_ref() {
            let name = match self.fields {
                None => key.as_str(),
                Some(fields) if fields.contains(&key.as_str()) => key.as_str(),
                Some(fields) => match camel(key, fields).filter(|_| self.context.lenient) {
                    Some(name) => name,
                    None => {
                        self.context.unknown.push(Path::Field(self.path, key).to_string());
                        continue;
                    }
                },
            };
            if self.fields.is_some() && value.is_null() {
                continue;
            }
            self.current = Some((key, value));
            return seed.deserialize(name.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some((key, value)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = Path::Field(self.path, key);
        seed.deserialize(Reader {
            value,
            path: &path,
            context: self.context,
        })
        .map_err(|e| e.at(&path))
    }
}

/// The field that a name in snake case means: protobuf accepts both spellings.
fn camel(key: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    let mut name = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                name.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => name.push(c),
        }
    }
    fields.iter().find(|field| **field == name).copied()
}
