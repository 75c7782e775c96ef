//! TLS of listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::gateway_api::{self as api, FrontendValidationMode, Listener, ListenerTlsMode};
use lateen_model::gateway::{ServerTls, ServerTlsMode};
use lateen_model::secret::Credential;
use lateen_names::{Name, Namespace, ObjectKey};

use crate::gateway_api::World;
use crate::gateway_api::grants::{Grants, core};
use crate::gateway_api::status::Fault;
use crate::istio::gateway::valid_cipher_suites;
use crate::istio::report::Report;
use crate::object::Kind;

/// Secret of the proxy's own certificate (Istio's name for it).
const OWN_CERTIFICATE: &str = "builtin://";
/// What is put behind the name of a resource that holds authorities only.
const AUTHORITIES: &str = "-cacert";

/// A certificate is not there or not usable.
const INVALID_CERTIFICATE: &str = "InvalidCertificateRef";
/// Authorities are not there or not usable.
const INVALID_AUTHORITIES: &str = "InvalidCACertificateRef";
/// A ReferenceGrant is missing.
const NOT_PERMITTED: &str = "RefNotPermitted";

/// Whether the fault takes the certificates that a listener must have (`NoValidCACertificate`), by Istio's reckoning.
pub(super) fn leaves_no_authority(fault: &Fault) -> bool {
    [INVALID_AUTHORITIES, "InvalidCACertificateKind", NOT_PERMITTED].contains(&fault.reason)
}

/// What a listener's TLS is lowered from.
pub(super) struct Source<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a Namespace,
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    pub(super) gateway: &'a api::Gateway,
    pub(super) world: World<'a>,
    pub(super) grants: &'a Grants<'a>,
}

impl Source<'_> {
    /// TLS; `Err` where it was asked for, but cannot be had: a listener without it must not answer at all.
    pub(super) fn lower(
        &self,
        listener: &Listener,
        field: &str,
        report: &mut Report<'_>,
    ) -> Result<Option<ServerTls>, Fault> {
        let Some(tls) = &listener.tls else { return Ok(None) };
        let mut out = ServerTls::default();
        if tls.mode == ListenerTlsMode::Passthrough {
            out.mode = if self.auto_passthrough(listener, tls) {
                ServerTlsMode::AutoPassthrough
            } else {
                ServerTlsMode::Passthrough
            };
        } else {
            let mode = tls
                .options
                .get("gateway.istio.io/tls-terminate-mode")
                .map(String::as_str);
            out.mode = match mode {
                Some("MUTUAL") => ServerTlsMode::Mutual,
                Some("OPTIONAL_MUTUAL") => ServerTlsMode::OptionalMutual,
                Some("ISTIO_MUTUAL") => ServerTlsMode::IstioMutual,
                _ => ServerTlsMode::Simple,
            };
            match mode {
                Some("ISTIO_MUTUAL") => return Ok(Some(out)),
                Some("ISTIO_SIMPLE") => {
                    out.credentials = vec![OWN_CERTIFICATE.into()];
                    return Ok(Some(out));
                }
                _ => {}
            }
            out.credentials = self.certificates(tls, &format!("{field}.certificateRefs"), report)?;
            if !out.credentials.is_empty() {
                self.client_validation(listener, mode, &mut out, report)?;
            }
        }
        if let Some(suites) = tls.options.get("gateway.istio.io/tls-cipher-suites") {
            out.cipher_suites = valid_cipher_suites(suites.split(',').map(str::trim));
        }
        Ok(Some(out))
    }

    /// Whether the SNI itself says which service is meant: gateways between networks.
    fn auto_passthrough(&self, listener: &Listener, tls: &api::ListenerTls) -> bool {
        let option = tls
            .options
            .get("gateway.istio.io/listener-protocol")
            .is_some_and(|mode| mode == "auto-passthrough");
        let label = |name: &str| self.labels.and_then(|labels| labels.get(name));
        let port = label("networking.istio.io/gatewayPort").map_or("15443", String::as_str);
        option || (label("topology.istio.io/network").is_some() && listener.port.to_string() == port)
    }

    /// Names of the certificates' resources; those that cannot be used are left out as long as one remains.
    fn certificates(
        &self,
        tls: &api::ListenerTls,
        field: &str,
        report: &mut Report<'_>,
    ) -> Result<Vec<Arc<str>>, Fault> {
        if tls.certificate_refs.len() > 2 {
            let message = "at most two certificates are supported";
            report.error(field, message);
            return Err(Fault::new(INVALID_CERTIFICATE, message));
        }
        let (mut names, mut first) = (Vec::new(), None);
        for (at, reference) in tls.certificate_refs.iter().enumerate() {
            let field = format!("{field}[{at}]");
            let namespace = reference.namespace.as_deref().unwrap_or(self.namespace.as_str());
            match self.certificate(reference, namespace) {
                Ok(name) => names.push(name),
                Err((fault, missing)) => {
                    match missing {
                        true => report.missing(&field, &fault.message),
                        false => report.error(&field, &fault.message),
                    }
                    first.get_or_insert(fault);
                }
            }
        }
        match first {
            Some(fault) if names.is_empty() => Err(fault),
            _ => Ok(names),
        }
    }

    /// Name of a certificate's resource; else what is wrong, and whether it is that something is not there.
    fn certificate(&self, reference: &api::SecretObjectReference, namespace: &str) -> Result<Arc<str>, (Fault, bool)> {
        if !core(&reference.group).is_empty() || reference.kind != "Secret" {
            let message = format!(
                "{}/{} holds no certificates; refer to a Secret",
                reference.group, reference.kind
            );
            return Err((Fault::new(INVALID_CERTIFICATE, message), false));
        }
        if !self.granted("Secret", namespace, &reference.name) {
            let message = format!("Secret {namespace}/{} needs a ReferenceGrant there", reference.name);
            return Err((Fault::new(NOT_PERMITTED, message), false));
        }
        match self.usable(namespace, &reference.name) {
            Ok(()) => Ok(format!("kubernetes-gateway://{namespace}/{}", reference.name).into()),
            Err(message) => Err((Fault::new(INVALID_CERTIFICATE, message), true)),
        }
    }

    /// The certificate that the gateway shall show to back ends: whether it can.
    pub(super) fn client_certificate(&self, report: &mut Report<'_>) -> Option<Fault> {
        let backend = self.gateway.spec.tls.as_ref()?.backend.as_ref()?;
        let reference = backend.client_certificate_ref.as_ref()?;
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace.as_str());
        let (fault, missing) = self.certificate(reference, namespace).err()?;
        let field = "spec.tls.backend.clientCertificateRef";
        match missing {
            true => report.missing(field, &fault.message),
            false => report.error(field, &fault.message),
        }
        Some(match fault.reason {
            INVALID_CERTIFICATE => Fault::new("InvalidClientCertificateRef", fault.message),
            _ => fault,
        })
    }

    fn granted(&self, kind: &str, namespace: &str, name: &str) -> bool {
        namespace == self.namespace.as_str()
            || self
                .grants
                .allow((self.kind.name(), self.namespace.as_str()), ("", kind, namespace), name)
    }

    /// Whether a Secret holds a certificate and its key.
    fn usable(&self, namespace: &str, name: &str) -> Result<(), String> {
        let Some(credential) = self.credential(namespace, name) else {
            return Err(format!("there is no Secret {namespace}/{name} with a certificate"));
        };
        let pem = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.contains("-----BEGIN ") && text.contains("-----END ")
        };
        let certificate = credential.certificate.as_deref().is_some_and(pem);
        if !certificate || !credential.private_key.as_ref().is_some_and(|key| pem(key.expose())) {
            return Err(format!(
                "Secret {namespace}/{name} lacks a PEM certificate in tls.crt or its key in tls.key"
            ));
        }
        Ok(())
    }

    fn credential(&self, namespace: &str, name: &str) -> Option<&Credential> {
        let key = ObjectKey {
            namespace: Some(Namespace::new(namespace).ok()?),
            name: Name::new(name).ok()?,
        };
        self.world.credentials.get(&key).map(|credential| &**credential)
    }

    /// Client certificates, as the gateway asks for them on all its ports or on one.
    fn client_validation(
        &self,
        listener: &Listener,
        mode: Option<&str>,
        out: &mut ServerTls,
        report: &mut Report<'_>,
    ) -> Result<(), Fault> {
        let Some(frontend) = self.gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else {
            return Ok(());
        };
        let of_port = frontend
            .per_port
            .iter()
            .find(|entry| entry.port == listener.port)
            .map(|entry| &entry.tls);
        let Some(validation) = of_port.unwrap_or(&frontend.default).validation.as_ref() else {
            return Ok(());
        };
        let field = "spec.tls.frontend";
        let reference = match validation.ca_certificate_refs.as_slice() {
            [] => return Ok(()),
            [only] => only,
            _ => {
                let message = "only one caCertificateRef is supported";
                report.error(field, message);
                return Err(Fault::new(INVALID_AUTHORITIES, message));
            }
        };
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace.as_str());
        let (kind, scheme) = match (core(&reference.group), reference.kind.as_str()) {
            ("", "Secret") => (Kind::Secret, "kubernetes-gateway"),
            ("", "ConfigMap") => (Kind::ConfigMap, "configmap"),
            _ => {
                let message = format!(
                    "{}/{} holds no authorities; refer to a Secret or ConfigMap",
                    reference.group, reference.kind
                );
                report.error(field, &message);
                return Err(Fault::new("InvalidCACertificateKind", message));
            }
        };
        if !self.granted(kind.name(), namespace, &reference.name) {
            let message = format!("{kind} {namespace}/{} needs a ReferenceGrant there", reference.name);
            report.error(field, &message);
            return Err(Fault::new(NOT_PERMITTED, message));
        }
        let name = match kind {
            Kind::ConfigMap => format!("configmap:{}", reference.name),
            _ => reference.name.clone(),
        };
        let pem = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("-----BEGIN ");
        let authorities = self
            .credential(namespace, &name)
            .and_then(|credential| credential.ca.as_deref());
        if !authorities.is_some_and(pem) {
            let message = format!(
                "there is no {kind} {namespace}/{} with PEM authorities in ca.crt",
                reference.name
            );
            report.missing(field, &message);
            return Err(Fault::new(INVALID_AUTHORITIES, message));
        }
        let insecure = validation.mode == FrontendValidationMode::AllowInsecureFallback;
        out.mode = if insecure {
            ServerTlsMode::OptionalMutual
        } else {
            ServerTlsMode::Mutual
        };
        out.insecure_skip_verify = Some(insecure);
        match mode {
            Some("MUTUAL") => (out.mode, out.insecure_skip_verify) = (ServerTlsMode::Mutual, Some(false)),
            Some("OPTIONAL_MUTUAL") => {
                (out.mode, out.insecure_skip_verify) = (ServerTlsMode::OptionalMutual, Some(false))
            }
            _ => {}
        }
        out.ca_credential = Some(format!("{scheme}://{namespace}/{}{AUTHORITIES}", reference.name).into());
        Ok(())
    }
}
