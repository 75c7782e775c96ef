//! Says what is wrong with an object, each field once.

use std::sync::Arc;

use lateen_model::{Diagnostic, Severity};
use lateen_names::{InvalidName, ObjectRef};
use lateen_validate::Finding;

/// Lateen's own code for a field that has no meaning and was left out.
pub(crate) const IGNORED: &str = "LTN0001";
/// `istioctl analyze`: a referenced object does not exist.
pub(crate) const NOT_FOUND: &str = "IST0101";

/// Where the diagnostics of one object go.
pub(crate) struct Report<'a> {
    object: ObjectRef,
    out: &'a mut Vec<Diagnostic>,
    start: usize,
}

impl<'a> Report<'a> {
    /// A report for an object that begins with what validation found, since lowering goes over the same fields.
    pub(crate) fn new(object: &ObjectRef, findings: Vec<Finding>, out: &'a mut Vec<Diagnostic>) -> Self {
        let start = out.len();
        let mut report = Self {
            object: object.clone(),
            out,
            start,
        };
        for finding in findings {
            let severity = match finding.level {
                lateen_validate::Level::Error => Severity::Error,
                lateen_validate::Level::Warning | lateen_validate::Level::Advice => Severity::Warning,
            };
            report.push(&finding.field, severity, finding.code, &finding.message);
        }
        report
    }

    /// A part of the object has no effect.
    pub(crate) fn error(&mut self, field: &str, message: impl AsRef<str>) {
        self.add(field, Severity::Error, IGNORED, message.as_ref());
    }

    /// A part of the object is probably not what was meant.
    pub(crate) fn warning(&mut self, field: &str, message: impl AsRef<str>) {
        self.add(field, Severity::Warning, IGNORED, message.as_ref());
    }

    /// Something else is missing that the object names.
    pub(crate) fn missing(&mut self, field: &str, message: impl AsRef<str>) {
        self.add(field, Severity::Error, NOT_FOUND, message.as_ref());
    }

    /// The value, or a diagnostic that says why it is none.
    pub(crate) fn name<T>(&mut self, field: &str, result: Result<T, InvalidName>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(field, error.to_string());
                None
            }
        }
    }

    /// A port, 1 to 65535.
    pub(crate) fn port(&mut self, field: &str, number: u32) -> Option<u16> {
        match u16::try_from(number) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                self.error(field, format!("{number} is no port; use a number from 1 to 65535"));
                None
            }
        }
    }

    fn add(&mut self, field: &str, severity: Severity, code: &'static str, message: &str) {
        // Validation has said it already, in more detail.
        let said = self.out[self.start..]
            .iter()
            .any(|known| *known.field == *field && known.severity >= severity);
        if !said {
            self.push(field, severity, code, message);
        }
    }

    fn push(&mut self, field: &str, severity: Severity, code: &'static str, message: &str) {
        self.out.push(Diagnostic {
            object: self.object.clone(),
            field: field.into(),
            severity,
            code,
            message: message.into(),
        });
    }
}

/// The text, shared; `None` for the empty text, which protobuf's JSON cannot tell from an absent one.
pub(crate) fn text(value: &str) -> Option<Arc<str>> {
    if value.is_empty() { None } else { Some(value.into()) }
}

/// The texts, shared.
pub(crate) fn texts<S: AsRef<str>>(values: &[S]) -> Vec<Arc<str>> {
    values.iter().map(|value| Arc::from(value.as_ref())).collect()
}

/// The duration, if it is not negative.
pub(crate) fn time(value: Option<lateen_api::Duration>) -> Option<std::time::Duration> {
    value?.to_std()
}

/// A number that is meant to be positive; protobuf's JSON cannot tell 0 from absent.
pub(crate) fn positive(value: i32) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0)
}

/// Per cent with fractions to parts per million, as Envoy counts; nonsense is kept within 0 to 100.
pub(crate) fn parts_per_million(percent: f64) -> u32 {
    // Istio multiplies and truncates; so do we, or 0.29 % would differ by one part.
    (percent.clamp(0.0, 100.0) * 10_000.0) as u32
}

/// Any fraction in thousandths, for models without floating point; nonsense is 0.
pub(crate) fn thousandths(value: f64) -> u64 {
    (value.max(0.0) * 1000.0).round() as u64
}
