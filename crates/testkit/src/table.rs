//! Rows of behaviour: a request through a real proxy, and what must come of it.
//!
//! A file holds a table, its first document, and the objects of its world, all others. [`Row`] is data, and so is
//! [`Observed`]: whoever predicts what a proxy does can be held to both.

mod check;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Deserializer};

use crate::call::Reply;
use crate::echo::Arrival;

/// A file.
#[derive(Debug, Clone)]
pub struct Table {
    /// Where it lies.
    pub file: PathBuf,
    /// Its rows, in order: they meet the same proxies one after the other.
    pub rows: Vec<Row>,
    /// The objects, as text.
    pub objects: String,
}

/// A request, and what must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What it shows; unique in its file.
    pub name: String,
    /// Whose proxy it goes through: a pod's name, or `ingress` or `egress` for who calls a gateway from outside.
    #[serde(default = "client")]
    pub from: String,
    /// `http`, `https`, `grpc`, `tcp` or `tls`, an authority, and a path.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The authority, where it is not the URL's.
    pub authority: Option<String>,
    /// Headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `address:port`, where it does not follow from the URL and the objects.
    pub to: Option<String>,
    /// The name that TLS asks for, where it is not the URL's.
    pub sni: Option<String>,
    /// Whether the client shows a certificate.
    #[serde(default)]
    pub certificate: bool,
    /// Whether it speaks HTTP/2.
    #[serde(default)]
    pub two: bool,
    /// How many times.
    #[serde(default = "one")]
    pub times: u32,
    /// All at once, each on a connection of its own.
    #[serde(default)]
    pub parallel: bool,
    /// One after the other, each on a connection of its own.
    #[serde(default)]
    pub fresh: bool,
    /// What must come of it.
    pub expect: Expect,
}

/// What must come of a row. What is not said, may be anything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// The status of all answers.
    pub status: Option<u16>,
    /// How many answers of which status; of no other there is any.
    pub statuses: BTreeMap<u16, Count>,
    /// How many answers came from which server; none from others.
    pub by: BTreeMap<String, Count>,
    /// How many requests came to which server, with retries and mirrored ones; none to others. `{}` is no condition.
    pub arrived: BTreeMap<String, Count>,
    /// How many different servers answered.
    pub servers: Option<Count>,
    /// Over how many connections requests came to servers.
    pub connections: Option<Count>,
    /// What servers saw of each request that they answered, by field of [`Arrival`].
    pub seen: BTreeMap<String, Text>,
    /// Headers that servers saw; `null` for none.
    pub seen_headers: BTreeMap<String, Option<Text>>,
    /// Headers of all answers; `null` for none.
    pub headers: BTreeMap<String, Option<Text>>,
    /// The body of all answers.
    pub body: Option<Text>,
    /// How long each answer took, in milliseconds.
    pub took: Option<Count>,
    /// gRPC's status.
    pub grpc: Option<u16>,
    /// No answers, but broken connections.
    pub broken: bool,
}

/// A number, or a range with both its ends: `3`, `40..60`.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub u64, pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Range(String),
        }
        let range = match Raw::deserialize(deserializer)? {
            Raw::Number(number) => return Ok(Self(number, number)),
            Raw::Range(text) => text,
        };
        let ends = range
            .split_once("..")
            .and_then(|(from, to)| Some(Self(from.parse().ok()?, to.parse().ok()?)));
        ends.ok_or_else(|| serde::de::Error::custom(format!("`{range}` is neither a number nor a range")))
    }
}

/// A text, or after a `~` a regular expression that it contains.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "serde_yaml::Value")]
pub struct Text(pub String);

impl From<serde_yaml::Value> for Text {
    fn from(value: serde_yaml::Value) -> Self {
        Self(match value {
            serde_yaml::Value::String(text) => text,
            serde_yaml::Value::Bool(yes) => yes.to_string(),
            serde_yaml::Value::Number(number) => number.to_string(),
            other => format!("{other:?}"),
        })
    }
}

/// What came of a row.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What each request got, in the order of the answers, or why it got nothing.
    pub replies: Vec<Result<Reply, String>>,
    /// What servers saw, mirrored requests and retries too.
    pub arrivals: Vec<Arrival>,
}

fn client() -> String {
    "client".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    rows: Vec<Row>,
}

impl Table {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is no table.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let (head, objects) = text.split_once("\n---\n").unwrap_or((&text, ""));
        let head: Head = serde_yaml::from_str(head).with_context(|| file.display().to_string())?;
        Ok(Self {
            file: file.to_owned(),
            rows: head.rows,
            objects: objects.to_owned(),
        })
    }

    /// Reads all files of a directory, by name.
    ///
    /// # Errors
    /// When one of them is no table.
    pub fn all(directory: &Path) -> Result<Vec<Self>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// Its file's name without the ending.
    pub fn name(&self) -> String {
        self.file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}
