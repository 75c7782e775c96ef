//! Workload identities.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::text::{InvalidName, text};
use crate::{Namespace, ServiceAccount};

text! {
    /// A SPIFFE trust domain: lower-case letters, digits, `.`, `-` and `_` (the SPIFFE ID standard, §2.1).
    TrustDomain, "trust domain", |text| {
        if text.is_empty() || text.len() > 255 {
            return Some("must have 1 to 255 characters");
        }
        if text.bytes().any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_'))) {
            return Some("must consist of lower-case letters, digits, `.`, `-` and `_`");
        }
        None
    }
}

impl Default for TrustDomain {
    /// Istio's: `cluster.local`.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

/// The identity of a workload in Istio's form of a SPIFFE ID: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The trust domain that vouches for the identity.
    pub trust_domain: TrustDomain,
    /// The workload's namespace.
    pub namespace: Namespace,
    /// The workload's service account.
    pub service_account: ServiceAccount,
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |reason| InvalidName::new("SPIFFE ID", text, reason);
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| invalid("must begin with `spiffe://`"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", account] = parts[..] else {
            return Err(invalid(
                "must be spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
            ));
        };
        Ok(Self {
            trust_domain: TrustDomain::new(trust_domain)?,
            namespace: Namespace::new(namespace)?,
            service_account: ServiceAccount::new(account)?,
        })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_what_they_print() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert!("spiffe://td/ns/a/sa/b/c".parse::<SpiffeId>().is_err());
        assert!("spiffe://td/ns/a/sa/".parse::<SpiffeId>().is_err());
        assert!("https://td/ns/a/sa/b".parse::<SpiffeId>().is_err());
    }
}
