//! Whether what came is what must come.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use regex::Regex;

use super::{Count, Expect, Observed, Text};
use crate::call::Reply;

impl Count {
    /// Whether a number lies in it.
    pub fn holds(self, number: u64) -> bool {
        (self.0..=self.1).contains(&number)
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == self.1 {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{}..{}", self.0, self.1)
        }
    }
}

impl Text {
    /// Whether a text is so.
    pub fn holds(&self, text: &str) -> bool {
        match self.0.strip_prefix('~') {
            Some(pattern) => Regex::new(pattern).is_ok_and(|regex| regex.is_match(text)),
            None => self.0 == text,
        }
    }
}

impl Observed {
    fn answers(&self) -> impl Iterator<Item = &Reply> {
        self.replies.iter().flatten()
    }

    /// How many answers came from which server; an answer of nobody's own counts for ``.
    pub fn by(&self) -> BTreeMap<String, u64> {
        count(self.answers().map(|reply| reply.by().unwrap_or_default()))
    }
}

fn count<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

impl Expect {
    /// What is not as it must be, a line for each.
    pub fn unmet(&self, observed: &Observed) -> Vec<String> {
        let mut unmet = Vec::new();
        for reply in &observed.replies {
            match reply {
                Err(error) if !self.broken => unmet.push(format!("no answer: {error}")),
                Ok(reply) if self.broken => unmet.push(format!("an answer of status {}", reply.status)),
                _ => {}
            }
        }
        let answers: Vec<&Reply> = observed.answers().collect();
        if let Some(status) = self.status {
            for reply in answers.iter().filter(|reply| reply.status != status) {
                unmet.push(format!(
                    "status {} instead of {status}: {}",
                    reply.status,
                    short(&reply.body)
                ));
            }
        }
        let statuses = count(answers.iter().map(|reply| reply.status));
        shares("answers of status", &self.statuses, &statuses, &mut unmet);
        shares("answers from", &self.by, &observed.by(), &mut unmet);
        let arrived = count(observed.arrivals.iter().map(|seen| seen.name.clone()));
        shares("requests came to", &self.arrived, &arrived, &mut unmet);
        let connections: BTreeSet<u64> = observed.arrivals.iter().map(|seen| seen.connection).collect();
        number("connections", self.connections, connections.len() as u64, &mut unmet);
        number("servers", self.servers, observed.by().len() as u64, &mut unmet);
        self.seen(observed, &answers, &mut unmet);
        for reply in answers {
            self.answer(reply, &mut unmet);
        }
        unmet
    }

    fn seen(&self, observed: &Observed, answers: &[&Reply], unmet: &mut Vec<String>) {
        if (!self.seen.is_empty() || !self.seen_headers.is_empty()) && observed.arrivals.is_empty() {
            unmet.push("no server saw anything".to_owned());
        }
        let by: BTreeSet<String> = answers.iter().filter_map(|reply| reply.by()).collect();
        for arrival in observed.arrivals.iter().filter(|seen| by.contains(&seen.name)) {
            let fields = serde_json::to_value(arrival).unwrap_or_default();
            for (field, text) in &self.seen {
                let value = match &fields[field] {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                if !text.holds(&value) {
                    unmet.push(format!(
                        "{} saw {field} `{value}` instead of `{}`",
                        arrival.name, text.0
                    ));
                }
            }
            for (name, wanted) in &self.seen_headers {
                header(
                    "saw",
                    name,
                    wanted.as_ref(),
                    arrival.headers.get(name).map(String::as_str),
                    unmet,
                );
            }
        }
    }

    fn answer(&self, reply: &Reply, unmet: &mut Vec<String>) {
        for (name, wanted) in &self.headers {
            let all = reply.headers.get_all(name).iter();
            let values: Vec<String> = all
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            let value = (!values.is_empty()).then(|| values.join(","));
            header("answered", name, wanted.as_ref(), value.as_deref(), unmet);
        }
        if let Some(body) = self.body.as_ref().filter(|body| !body.holds(&reply.body)) {
            unmet.push(format!("body `{}` instead of `{}`", short(&reply.body), body.0));
        }
        let took = u64::try_from(reply.took.as_millis()).unwrap_or(u64::MAX);
        number("milliseconds", self.took, took, unmet);
        if let Some(status) = self.grpc {
            let wanted = Text(status.to_string());
            let value = reply.headers.get("grpc-status").and_then(|value| value.to_str().ok());
            header("answered", "grpc-status", Some(&wanted), value, unmet);
        }
    }
}

fn header(how: &str, name: &str, wanted: Option<&Text>, value: Option<&str>, unmet: &mut Vec<String>) {
    let met = match (wanted, value) {
        (Some(wanted), Some(value)) => wanted.holds(value),
        (None, None) => true,
        _ => false,
    };
    if !met {
        let wanted = wanted.map_or("none", |text| text.0.as_str());
        unmet.push(format!(
            "{how} header {name} `{}` instead of `{wanted}`",
            value.unwrap_or("none")
        ));
    }
}

fn number(what: &str, wanted: Option<Count>, number: u64, unmet: &mut Vec<String>) {
    if let Some(wanted) = wanted.filter(|wanted| !wanted.holds(number)) {
        unmet.push(format!("{number} {what} instead of {wanted}"));
    }
}

fn shares<K: Ord + Display>(what: &str, wanted: &BTreeMap<K, Count>, seen: &BTreeMap<K, u64>, unmet: &mut Vec<String>) {
    if wanted.is_empty() {
        return;
    }
    for (key, count) in wanted {
        let number = seen.get(key).copied().unwrap_or(0);
        if !count.holds(number) {
            unmet.push(format!("{what} `{key}`: {number} instead of {count}"));
        }
    }
    for (key, number) in seen.iter().filter(|(key, _)| !wanted.contains_key(key)) {
        unmet.push(format!("{what} `{key}`: {number} instead of none"));
    }
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}
