//! Key material in Secrets and ConfigMaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use lateen_model::secret::{Credential, Sensitive};
use lateen_names::{Name, ObjectKey};

/// The key material of a Secret; `None` for Secrets that hold something else.
pub(crate) fn of_secret(secret: &Secret, key: &ObjectKey) -> Option<Credential> {
    if secret.type_.as_deref() == Some("kubernetes.io/service-account-token") {
        return None;
    }
    let text = secret
        .string_data
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let data = secret
        .data
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.0.as_slice()));
    // As when the API server merges them, `stringData` wins.
    of_data(key.clone(), data.chain(text).collect())
}

/// The credentials for registries of images of a Secret that holds them.
pub(crate) fn for_registry(secret: &Secret) -> Option<Sensitive> {
    const NAME: &str = ".dockerconfigjson";
    if secret.type_.as_deref() != Some("kubernetes.io/dockerconfigjson") {
        return None;
    }
    let text = secret.string_data.as_ref().and_then(|data| data.get(NAME));
    let data = || secret.data.as_ref()?.get(NAME).map(|data| data.0.as_slice());
    text.map(String::as_bytes).or_else(data).map(Sensitive::new)
}

/// The authorities of a ConfigMap (`ca.crt`); `None` for ConfigMaps that hold something else.
pub(crate) fn of_config_map(map: &ConfigMap, key: &ObjectKey) -> Option<Credential> {
    let data = map
        .data
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let key = ObjectKey {
        namespace: key.namespace.clone(),
        name: Name::new(&format!("configmap:{}", key.name)).ok()?,
    };
    let found = of_data(key, data.collect())?;
    found.ca.is_some().then_some(Credential {
        certificate: None,
        private_key: None,
        ..found
    })
}

fn of_data(key: ObjectKey, data: BTreeMap<&str, &[u8]>) -> Option<Credential> {
    let get = |name: &str| data.get(name).copied().filter(|bytes| !bytes.is_empty());
    let pem = |name: &str| get(name).map(Arc::<[u8]>::from);
    // Istio's own names before Kubernetes's, and never one of each.
    let (certificate, private_key, ocsp_staple, generic) =
        match (get("cert"), get("key"), get("tls.crt"), get("tls.key")) {
            (Some(certificate), Some(key), _, _) => (Some(certificate), Some(key), None, true),
            (_, _, Some(certificate), Some(key)) => (Some(certificate), Some(key), pem("tls.ocsp-staple"), false),
            _ => (None, None, None, get("cacert").is_some()),
        };
    let ca = pem("cacert").or_else(|| pem("ca.crt"));
    if certificate.is_none() && ca.is_none() {
        return None;
    }
    Some(Credential {
        key,
        certificate: certificate.map(Into::into),
        private_key: private_key.map(Sensitive::new),
        ca,
        crl: if generic {
            pem("crl").or_else(|| pem("ca.crl"))
        } else {
            pem("ca.crl").or_else(|| pem("crl"))
        },
        ocsp_staple,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(data: &[(&str, &str)]) -> Option<Credential> {
        let key = ObjectKey {
            namespace: None,
            name: Name::new("s").unwrap(),
        };
        let data = data
            .iter()
            .map(|(name, value)| ((*name).to_owned(), ByteString(value.as_bytes().to_vec())));
        of_secret(
            &Secret {
                data: Some(data.collect()),
                ..Secret::default()
            },
            &key,
        )
    }

    #[test]
    fn names_of_istio_win_and_half_a_pair_is_none() {
        let both = secret(&[("cert", "a"), ("key", "b"), ("tls.crt", "c"), ("tls.key", "d")]).unwrap();
        assert_eq!(both.certificate.as_deref(), Some(b"a".as_slice()));
        assert!(secret(&[("tls.crt", "c")]).is_none());
        assert!(secret(&[("password", "c")]).is_none());
        let ca = secret(&[("ca.crt", "c"), ("tls.key", "k")]).unwrap();
        assert!(ca.certificate.is_none() && ca.private_key.is_none() && ca.ca.is_some());
        assert!(!format!("{both:?}").contains("98"), "keys are never printed");
    }
}
