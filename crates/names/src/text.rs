//! Identifiers that are a piece of text with a rule.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A piece of text is not the identifier that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {what}: {reason}")]
pub struct InvalidName {
    /// What was expected, e.g. `host name`.
    pub what: &'static str,
    /// The text as given.
    pub value: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, value: &str, reason: &'static str) -> Self {
        // A megabyte of nonsense must not come back as a megabyte of error.
        Self {
            what,
            value: value.chars().take(256).collect(),
            reason,
        }
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps the text.
            ///
            /// # Errors
            /// When the text breaks the identifier's rule.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Option<&'static str> = $check;
                match check(text) {
                    None => Ok(Self(text.into())),
                    Some(reason) => Err(InvalidName::new($what, text, reason)),
                }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}
pub(crate) use text;

text! {
    /// A Kubernetes namespace (RFC 1123 label).
    Namespace, "namespace", dns_label
}
text! {
    /// The name of a Kubernetes object: of a pod, a service, a custom resource. Object names are checked by the API
    /// server; here only what would break Lateen's own compound names is refused.
    Name, "object name", printable
}
text! {
    /// A Kubernetes service account.
    ServiceAccount, "service account", printable
}
text! {
    /// A cluster of a multi-cluster mesh (`CLUSTER_ID`).
    ClusterId, "cluster ID", printable
}
text! {
    /// A network of the mesh (`topology.istio.io/network`). The empty network is the one that has no name.
    Network, "network", |text| if text.is_empty() { None } else { printable(text) }
}

impl Default for Network {
    /// The network that has no name.
    fn default() -> Self {
        Self("".into())
    }
}

/// RFC 1123 label: at most 63 lower-case letters, digits and inner hyphens.
fn dns_label(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 {
        return Some("must have 1 to 63 characters");
    }
    if !bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    {
        return Some("must consist of lower-case letters, digits and `-`");
    }
    if bytes[0] == b'-' || bytes[bytes.len() - 1] == b'-' {
        return Some("must begin and end with a letter or a digit");
    }
    None
}

fn printable(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > 253 {
        return Some("must have 1 to 253 characters");
    }
    if text.bytes().any(|b| b.is_ascii_control() || b == b'/' || b == b' ') {
        return Some("must not contain spaces, slashes or control characters");
    }
    None
}
