//! From a file's text to objects and problems.

use std::path::Path;
use std::sync::Arc;

use lateen_lower::admission::{Finding, Level, SCHEMA};
use lateen_lower::object::Scope;
use lateen_lower::{Admission, Kind, Object, yaml};
use lateen_names::{Name, Namespace, ObjectKey, ObjectRef};
use serde_json::Value;

use super::{Problem, Severity, Verdict};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// Objects in the order of the file; `None` for those that are refused.
    pub items: Vec<(Kind, ObjectKey, Option<Arc<Object>>)>,
    pub problems: Vec<Problem>,
    pub verdicts: Vec<Verdict>,
    /// Kinds that Lateen does not read, as `apiVersion`, kind and line.
    pub unknown: Vec<(String, String, Option<usize>)>,
    /// Whether the file is no YAML: nothing of it counts then.
    pub broken: bool,
}

/// Reads all documents of a text; a list counts as the objects in it.
pub(super) fn parse(path: &Path, text: &str, admission: &Admission, keep_rejected: bool) -> Parsed {
    let mut reader = Reader {
        path,
        text,
        admission,
        keep_rejected,
        parsed: Parsed::default(),
    };
    for (number, document) in yaml::documents(text).enumerate() {
        match document {
            Ok(Value::Null) => {}
            Ok(value) => reader.value(number, "", value),
            Err(error) => {
                reader.parsed.broken = true;
                reader.parsed.problems.push(Problem {
                    line: error.line,
                    column: error.column,
                    ..Problem::of_file(path, Severity::Error, format!("is not YAML: {}", error.reason))
                });
            }
        }
    }
    reader.parsed
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    admission: &'a Admission,
    keep_rejected: bool,
    parsed: Parsed,
}

/// Where in the text: the document's number, and the object's path in it.
#[derive(Clone, Copy)]
struct At<'a> {
    document: usize,
    prefix: &'a str,
}

impl Reader<'_> {
    /// One value: an object, or a list of them. `prefix` is its place within the document.
    fn value(&mut self, document: usize, prefix: &str, mut value: Value) {
        let at = At { document, prefix };
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version.is_empty() || kind.is_empty() {
            let message = "is no Kubernetes object: give it `apiVersion`, `kind` and `metadata.name`";
            return self.report(at, None, "", Severity::Error, message.to_owned());
        }
        if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
            let items = value
                .get_mut("items")
                .and_then(Value::as_array_mut)
                .map(std::mem::take)
                .unwrap_or_default();
            for (index, item) in items.into_iter().enumerate() {
                self.value(document, &format!("{prefix}items[{index}]."), item);
            }
            return;
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(known) = Kind::find(group, &kind) else {
            let line = yaml::locate(self.text, document, prefix.trim_end_matches('.')).map(|(line, _)| line);
            self.parsed.unknown.push((api_version, kind, line));
            return;
        };
        if known.scope() == Scope::Namespaced {
            default_namespace(&mut value);
        }
        default_age(&mut value);
        match key(known, &value) {
            Ok(key) => self.object(at, known, key, api_version, &value),
            Err((field, message)) => self.report(at, Some(kind), field, Severity::Error, message),
        }
    }

    fn object(&mut self, at: At<'_>, kind: Kind, key: ObjectKey, api_version: String, value: &Value) {
        let (object, findings) = match Object::decode(kind, value) {
            Ok(decoded) => {
                let findings = self.admission.check(value, &decoded.value, &decoded.unknown);
                (Some(decoded.value), findings)
            }
            Err(error) => {
                let field = error.path;
                (
                    None,
                    vec![Finding {
                        level: Level::Error,
                        field,
                        code: SCHEMA,
                        message: error.message,
                    }],
                )
            }
        };
        let refused = findings.iter().any(|finding| finding.level == Level::Error);
        let keep = object.is_some() && (self.keep_rejected || !refused);
        for finding in &findings {
            let severity = if finding.level == Level::Error && !keep {
                Severity::Error
            } else {
                Severity::Warning
            };
            self.report(
                at,
                Some(format!("{kind} {key}")),
                &finding.field,
                severity,
                finding.message.clone(),
            );
        }
        if Admission::judges(kind) {
            let reference = kind.reference(key.clone());
            self.parsed.verdicts.push(verdict(api_version, reference, &findings));
        }
        self.parsed
            .items
            .push((kind, key, object.filter(|_| keep).map(Arc::new)));
    }

    fn report(&mut self, at: At<'_>, object: Option<String>, field: &str, severity: Severity, message: String) {
        let path = format!("{}{field}", at.prefix);
        let place = yaml::locate(self.text, at.document, path.trim_end_matches('.'));
        self.parsed.problems.push(Problem {
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            object,
            field: field.to_owned(),
            ..Problem::of_file(self.path, severity, message)
        });
    }
}

fn default_namespace(value: &mut Value) {
    let Some(Value::Object(metadata)) = value.get_mut("metadata") else {
        return;
    };
    if metadata
        .get("namespace")
        .is_none_or(|namespace| namespace.is_null() || namespace == "")
    {
        metadata.insert("namespace".to_owned(), Value::String("default".to_owned()));
    }
}

/// When objects of which no file says when they were made were made: all at once, and later than those that are older
/// than Lateen. Of two that claim the same, the older one counts.
const AGE: &str = "2024-01-01T00:00:00Z";

fn default_age(value: &mut Value) {
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        let age = metadata.entry("creationTimestamp").or_insert(Value::Null);
        if age.is_null() {
            *age = AGE.into();
        }
    }
}

/// Namespace and name, before anything else of the object is looked at.
fn key(kind: Kind, value: &Value) -> Result<ObjectKey, (&'static str, String)> {
    let text = |field: &'static str, pointer: &str| match value.pointer(pointer) {
        Some(Value::String(text)) => Ok(text.as_str()),
        None | Some(Value::Null) => Ok(""),
        Some(_) => Err((field, "must be text".to_owned())),
    };
    let invalid = |field| move |error: lateen_names::InvalidName| (field, error.to_string());
    let name = Name::new(text("metadata.name", "/metadata/name")?).map_err(invalid("metadata.name"))?;
    let namespace = match kind.scope() {
        Scope::Cluster => None,
        Scope::Namespaced => {
            let namespace = text("metadata.namespace", "/metadata/namespace")?;
            Some(Namespace::new(namespace).map_err(invalid("metadata.namespace"))?)
        }
    };
    Ok(ObjectKey { namespace, name })
}

fn verdict(api_version: String, object: ObjectRef, findings: &[Finding]) -> Verdict {
    let texts = |level: Level, schema: bool| {
        let of = findings
            .iter()
            .filter(move |finding| finding.level == level && Admission::is_schema(finding) == schema);
        of.map(|finding| format!("{}: {}", finding.field, finding.message))
            .collect::<Vec<_>>()
    };
    let mut warnings = texts(Level::Warning, true);
    warnings.extend(texts(Level::Warning, false));
    Verdict {
        api_version,
        object,
        schema: texts(Level::Error, true),
        errors: texts(Level::Error, false),
        warnings,
    }
}
