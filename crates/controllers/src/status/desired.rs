//! What a status should say.

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use lateen_model::{Diagnostic, Severity};
use serde_json::{Map, Value, json};

use super::{ACCEPTED, DISTRIBUTED, Subject};

/// How many findings a status lists, and how long a message may be.
const MAX_FINDINGS: usize = 32;
const MAX_MESSAGE: usize = 2048;

/// How far a generation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distribution {
    /// Every proxy has it.
    Everywhere { proxies: usize, replicas: usize },
    /// It is under way.
    Pending(String),
    /// A proxy rejected it.
    Rejected(String),
    /// As it was before: nothing new is known.
    Unchanged,
}

/// The status to write, or `None` when the object's own says the same. Times and mere wording do not count.
pub(super) fn status(
    subject: &Subject,
    findings: &[Diagnostic],
    distribution: &Distribution,
    now: Timestamp,
) -> Option<Value> {
    let current = &subject.status;
    // Nearly always nothing differs: not copied before something does.
    let mut conditions = Cow::Borrowed(current["conditions"].as_array().map_or(&[][..], Vec::as_slice));
    let accepted = accepted(findings);
    let mut differs = put(&mut conditions, ACCEPTED, accepted, true, subject.generation, now);
    if let Some(distributed) = distributed(distribution) {
        let rejected = matches!(distribution, Distribution::Rejected(_));
        differs |= put(
            &mut conditions,
            DISTRIBUTED,
            distributed,
            rejected,
            subject.generation,
            now,
        );
    }
    let messages = messages(findings);
    let known = current["validationMessages"].as_array().map_or(&[][..], Vec::as_slice);
    differs |= known != messages;
    differs |= generation(&current["observedGeneration"]) != Some(subject.generation);
    if !differs {
        return None;
    }
    // A merge patch: what it does not name stays, and null removes.
    let mut status = Map::new();
    status.insert("conditions".to_owned(), conditions.into_owned().into());
    let messages = if messages.is_empty() {
        Value::Null
    } else {
        messages.into()
    };
    status.insert("validationMessages".to_owned(), messages);
    status.insert("observedGeneration".to_owned(), subject.generation.into());
    Some(status.into())
}

/// What [`DISTRIBUTED`] is to say; `None` where nothing new is known.
pub(super) fn distributed(distribution: &Distribution) -> Option<(&'static str, &'static str, String)> {
    match distribution {
        Distribution::Everywhere { proxies, replicas } => Some((
            "True",
            "Distributed",
            format!("held by all proxies ({proxies} connected to {replicas} replicas)"),
        )),
        Distribution::Pending(what) => Some(("False", "Pending", what.clone())),
        Distribution::Rejected(what) => Some(("False", "Rejected", what.clone())),
        Distribution::Unchanged => None,
    }
}

/// Whether a status, or a part of one, says already that this generation is everywhere.
pub(super) fn is_distributed(status: &Value, at: i64) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == DISTRIBUTED
            && condition["status"] == "True"
            && generation(&condition["observedGeneration"]) == Some(at)
    })
}

/// Sets a condition; whether that differs from what was there.
pub(super) fn put(
    conditions: &mut Cow<'_, [Value]>,
    name: &str,
    (status, reason, message): (&str, &str, String),
    wording_counts: bool,
    at: i64,
    now: Timestamp,
) -> bool {
    let message: String = message.chars().take(MAX_MESSAGE).collect();
    let place = conditions.iter().position(|condition| condition["type"] == name);
    let old = place.map(|place| &conditions[place]);
    let same = old.is_some_and(|old| {
        old["status"] == status
            && old["reason"] == reason
            && (!wording_counts || old["message"].as_str().unwrap_or_default() == message)
            && generation(&old["observedGeneration"]) == Some(at)
    });
    if same {
        return false;
    }
    let since = old
        .filter(|old| old["status"] == status)
        .map(|old| old["lastTransitionTime"].clone());
    let condition = json!({
        "type": name,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": at,
        "lastTransitionTime": since.unwrap_or_else(|| time(now)),
    });
    let conditions = conditions.to_mut();
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
    true
}

/// Whole seconds, as Kubernetes writes times.
fn time(now: Timestamp) -> Value {
    Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
        .into()
}

fn accepted(findings: &[Diagnostic]) -> (&'static str, &'static str, String) {
    let errors = || findings.iter().filter(|finding| finding.severity == Severity::Error);
    if errors().next().is_none() {
        return ("True", "Accepted", String::new());
    }
    let texts: Vec<String> = errors()
        .take(MAX_FINDINGS)
        .map(|finding| format!("{}: {} [{}]", finding.field, finding.message, finding.code))
        .collect();
    ("False", "Invalid", texts.join("; "))
}

fn messages(findings: &[Diagnostic]) -> Vec<Value> {
    let message = |finding: &Diagnostic| {
        let level = match finding.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Info => "INFO",
        };
        let mut message = json!({ "type": { "code": finding.code }, "level": level });
        if finding.code.starts_with("IST") {
            let page = finding.code.to_ascii_lowercase();
            message["documentationUrl"] =
                format!("https://istio.io/latest/docs/reference/config/analysis/{page}/").into();
        }
        message
    };
    let mut messages: Vec<Value> = findings.iter().map(message).collect();
    // Several fields may be wrong in the same way; the form has no place for fields.
    messages.dedup();
    messages.truncate(MAX_FINDINGS);
    messages
}

/// A generation is a number, or text where another wrote it.
fn generation(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use lateen_names::{Name, ObjectKey, ObjectRef};

    use super::*;

    fn object() -> ObjectRef {
        let key = ObjectKey {
            namespace: None,
            name: Name::new("a").unwrap(),
        };
        ObjectRef {
            kind: "VirtualService".into(),
            group: "networking.istio.io".into(),
            key,
        }
    }

    fn subject(status: Value) -> Subject {
        Subject {
            object: object(),
            uid: "u".to_owned(),
            generation: 3,
            version: 7,
            revision: None,
            status,
        }
    }

    fn finding(code: &'static str, severity: Severity) -> Diagnostic {
        Diagnostic {
            object: object(),
            field: "spec.http[0]".into(),
            severity,
            code,
            message: "no such host; name one".into(),
        }
    }

    const EVERYWHERE: Distribution = Distribution::Everywhere {
        proxies: 4,
        replicas: 2,
    };

    #[test]
    fn a_status_is_written_once() {
        let findings = [finding("IST0101", Severity::Error)];
        let now = Timestamp::UNIX_EPOCH;
        let first = status(&subject(Value::Null), &findings, &EVERYWHERE, now).unwrap();
        assert_eq!(first["observedGeneration"], 3);
        assert_eq!(
            first["validationMessages"],
            json!([{"type": {"code": "IST0101"}, "level": "ERROR",
                    "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0101/"}])
        );
        assert!(is_distributed(&first, 3) && !is_distributed(&first, 4));
        let message = first["conditions"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("spec.http[0]: no such host"), "{message}");
        let written = subject(first);
        let more = Distribution::Everywhere {
            proxies: 9,
            replicas: 2,
        };
        for distribution in [EVERYWHERE, more, Distribution::Unchanged] {
            assert!(status(&written, &findings, &distribution, now).is_none());
        }
    }

    #[test]
    fn conditions_of_others_stay_and_the_time_is_that_of_the_change() {
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(1000).unwrap());
        let next = |current: Value, distribution: &Distribution, now| {
            status(&subject(current), &[], distribution, now).unwrap()
        };
        let other = json!({"conditions": [{"type": "Other", "status": "True"}]});
        let pending = Distribution::Pending("waits for 1 of 4 proxies".to_owned());
        let first = next(other.clone(), &pending, early);
        assert_eq!(first["conditions"][0], other["conditions"][0]);
        let rejected = Distribution::Rejected("proxy a: bad".to_owned());
        let second = next(first, &rejected, late);
        assert_eq!(second["conditions"][2]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let third = next(second, &EVERYWHERE, late);
        assert_eq!(third["conditions"][2]["lastTransitionTime"], "1970-01-01T00:16:40Z");
        assert_eq!(third["conditions"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn what_is_found_no_more_is_removed() {
        let before = json!({"validationMessages": [{"type": {"code": "IST0101"}, "level": "ERROR"}]});
        let written = status(&subject(before), &[], &Distribution::Unchanged, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(written["validationMessages"], Value::Null);
    }
}
